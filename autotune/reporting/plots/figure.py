"""Figure that notebooks show."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """Figure that a notebook shows as a PNG; matplotlib's own is shown only if pyplot was imported.

    Attributes:
        note: a caption of one line; drawn below the title of a headed figure.
    """

    note: str = ""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return the PNG and its size on the page: 80 pixels an inch, half of its own for sharp screens."""
        with BytesIO() as stream:
            self.savefig(stream, format="png", metadata={"Software": None})
            width, height = self.get_size_inches()
            return stream.getvalue(), {"width": round(80 * width), "height": round(80 * height)}
