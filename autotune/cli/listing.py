"""Commands without a study: init, cache, spaces, evaluators, schema."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.output import Json, print_evaluators, print_json
from autotune.errors import AutotuneError, UsageError

__all__ = ["cache", "evaluators", "init", "schema", "spaces"]

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
    from autotune.config.starter import SCHEMA_FILE, SYNTHETIC, Sources, starter_yaml
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


def cache(
    action: Annotated[str, typer.Argument(help="info or clear.")] = "info",
    directory: Annotated[Path | None, typer.Option(help="Another cache folder than the default.")] = None,
    as_json: Json = False,
) -> None:
    """Show or clear what is kept between runs."""
    from autotune.common.cache import Cache
    from autotune.common.formatting import size

    if action not in ("info", "clear"):
        raise UsageError(f"unknown word {action!r}: autotune cache [info|clear]")
    found = Cache.resolve(directory)
    freed = found.clear() if action == "clear" else None
    sizes = found.sizes()
    if as_json:
        print_json({"directory": str(found.directory), "limit": found.limit, "freed": freed, "sizes": sizes})
        return
    print(found.directory if freed is None else f"{found.directory}: {size(freed)} freed")
    for room, used in sizes.items():
        print(f"  {room:10}  {size(used)}")


def spaces(as_json: Json = False) -> None:
    """List the search-space presets."""
    from autotune.config.space.presets import presets

    found = presets()
    if as_json:
        print_json([preset._asdict() for preset in found])
        return
    for preset in found:
        print(f"{preset.name:10}  {preset.description}  ({preset.origin})")


def evaluators(as_json: Json = False) -> None:
    """List the evaluators and their metrics."""
    from autotune.evaluation.registry import available, evaluator_metrics

    found = []
    for name, origin in available():
        try:
            found.append((name, origin, evaluator_metrics(name), ""))
        except AutotuneError as error:  # one broken plug-in does not hide the others
            found.append((name, origin, {}, str(error)))
    if as_json:
        print_json(
            {
                name: {
                    "origin": origin,
                    "error": problem or None,
                    "metrics": {m: {"direction": d.direction, "unit": d.unit} for m, d in metrics.items()},
                }
                for name, origin, metrics, problem in found
            }
        )
        return
    print_evaluators(found)


def schema() -> None:
    """Print the JSON Schema of model.yaml, for editors."""
    from autotune.config.config import config_schema

    print_json(config_schema())
