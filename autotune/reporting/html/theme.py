"""Colours in the light and in the dark: the plots' palette and the page's follow one table."""

from __future__ import annotations

__all__ = ["DARK", "theme_css"]

DARK = {
    # ink, muted, grid, axes, lines, limits, notes, white
    "1f2328": "e8eaed",
    "6e7781": "9aa4af",
    "e7e9ec": "2a3038",
    "8c959f": "69737f",
    "57606a": "9aa4af",
    "b3412e": "f0806c",
    "f6f8fa": "20262d",
    "ffffff": "14181d",
    # Okabe and Ito's palette, lighter where it would drown in the dark
    "d55e00": "f08a3c",
    "cc79a7": "e3a0c6",
    "0072b2": "4aa3df",
    "56b4e9": "a5d9fa",
    "009e73": "2fc79a",
    "e69f00": "f3bd4a",
    "7f7f7f": "a8a8a8",
    "6a3d9a": "ab7fe0",
    "5b4636": "c7a58c",
    "9a9a00": "d3d34a",
    "444444": "c9c9c9",
}
"""Colour of a plot in the light -> the same in the dark, both as RRGGBB."""


def theme_css() -> str:
    """Style rules that turn the plots' colours over where the reader prefers the dark, on screen only."""
    dark = "".join(f"--x-{light}:#{dark};" for light, dark in DARK.items())
    return f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
