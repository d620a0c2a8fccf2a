"""The first command: `autotune init`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune.config.starter import SYNTHETIC
from autotune.errors import UsageError

__all__ = ["add_to"]

WITHOUT_HUB = "--calibration synthetic --text synthetic --embedder minilm"


def init(
    model: Annotated[str, typer.Argument(help="A Hugging Face id, or a Hugging Face or OpenVINO folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] = Path("model.yaml"),
    calibration: Annotated[
        str | None, typer.Option(metavar="FILE", help="Text to calibrate on; synthetic: the model writes it.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="FILE", help="Text for perplexity and divergence; synthetic likewise.")
    ] = None,
    prompts: Annotated[str | None, typer.Option(metavar="FILE", help="Prompts for similarity, one a line.")] = None,
    embedder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Encoder for similarity; minilm needs no hub.")
    ] = None,
) -> None:
    """Write a commented model.yaml that runs as it is, fitted to the model and to this machine."""
    from autotune.common.files import atomic_write
    from autotune.config.config import config_schema
    from autotune.config.starter import SCHEMA_FILE, Sources, starter_yaml
    from autotune.models.hub import look_at
    from autotune.study.storage.manifest import machine

    if output.exists():
        raise UsageError(f"{output} exists already; name another file with -o, or remove it")
    for option, file in (("--calibration", calibration), ("--text", text)):
        if file not in (None, SYNTHETIC) and not Path(str(file)).is_file():
            raise UsageError(f"{option} {file}: no such file; give a text file, or the word synthetic")
    here = output.parent
    sources = Sources(*(_seen_from(here, name) for name in (calibration, text, prompts, embedder)))
    facts = look_at(model)
    with atomic_write(output.with_name(SCHEMA_FILE)) as temporary:
        temporary.write_text(json.dumps(config_schema(), indent=1) + "\n", encoding="utf-8")
    written = starter_yaml(str(_seen_from(here, model)), facts, machine(), sources=sources, schema=True)
    with atomic_write(output) as temporary:
        temporary.write_text(written, encoding="utf-8")
    if facts is None:
        print(
            f"note: {model} is neither a local folder nor could the hub be asked; the defaults stand. To work without "
            f"the hub: autotune init FOLDER {WITHOUT_HUB}",
            file=sys.stderr,
        )
    print(f"{output} is written ({SCHEMA_FILE} beside it is for your editor); look it over, then:")
    print(f"  autotune plan {output}     # sizes to the byte, before any work")
    print(f"  autotune search {output}   # the search")


def _seen_from(folder: Path, name: str | None) -> str | None:
    """A relative path of this folder as the file in `folder` has to name it; whatever is no path stays."""
    if name is None or Path(name).is_absolute() or not Path(name).exists():
        return name
    seen = os.path.relpath(name, folder)
    return name if Path(seen) == Path(name) else Path(seen).as_posix()


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    example = "Example: autotune init HuggingFaceTB/SmolLM2-135M && autotune search model.yaml"
    app.command(rich_help_panel="A study", epilog=example)(init)
