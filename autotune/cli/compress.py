"""Single steps without a study: `autotune compress` and `autotune evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from autotune.cli.output import Json, listening, print_json, print_produced
from autotune.compression.settings import BACKUP_MODES, MODES, SENSITIVITY_METRICS, Settings
from autotune.config.starter import SYNTHETIC
from autotune.errors import UsageError

__all__ = ["add_to"]


def compress(
    model: Annotated[str, typer.Argument(help="A Hugging Face id, or a Hugging Face or OpenVINO folder.")],
    out: Annotated[Path, typer.Argument(help="A new folder for the compressed model.")],
    mode: Annotated[str, typer.Option(help=f"{', '.join(MODES)}.")] = "int8_asym",
    group_size: Annotated[
        int | None, typer.Option(help="Input channels that share a scale; -1: one group a row.")
    ] = None,
    ratio: Annotated[float, typer.Option(help="Share of the weights that get the mode, 0 to 1.")] = 1.0,
    codebook: Annotated[
        str | None, typer.Option(metavar="FILE", help="Table of mode codebook: .npy, .json, text, or 0,0.5,1.")
    ] = None,
    backup_mode: Annotated[
        str | None,
        typer.Option(
            help=f"For the other weights: {', '.join(BACKUP_MODES)}. Default: int8_asym; for fp8 modes the mode itself."
        ),
    ] = None,
    sensitivity_metric: Annotated[str | None, typer.Option(help=f"{', '.join(SENSITIVITY_METRICS)}.")] = None,
    all_layers: Annotated[bool, typer.Option("--all-layers", help="Embeddings and last layer, too.")] = False,
    awq: Annotated[bool, typer.Option("--awq", help="Activation-aware channel scales.")] = False,
    awq_data_free: Annotated[
        bool, typer.Option("--awq-data-free", help="Channel scales from the weights alone, as without a text.")
    ] = False,
    scale_estimation: Annotated[bool, typer.Option("--scale-estimation", help="Searched scales.")] = False,
    gptq: Annotated[bool, typer.Option("--gptq", help="Rounding errors carried on column by column.")] = False,
    gptq_act_order: Annotated[
        bool, typer.Option("--gptq-act-order/--no-gptq-act-order", help="Columns by falling activation energy.")
    ] = True,
    lora_correction: Annotated[bool, typer.Option("--lora-correction", help="Adapters for the error left.")] = False,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of the adapters.")] = 8,
    ignored_scope: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Weights to leave alone; repeatable.")
    ] = None,
    group_size_fallback: Annotated[
        str, typer.Option(help="Where the group size does not divide: adjust, ignore or error.")
    ] = "adjust",
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text for what looks at activations; synthetic: the model writes it."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Calibration windows.")] = 128,
    sequence_length: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 512,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Choose the best formats of that size: 13.8MB; needs --text.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text on which --max-size measures divergences.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="int2|int3", help="With --max-size: formats of fewer bits; repeatable.")
    ] = None,
    runtime_compressed: Annotated[
        bool, typer.Option(help="With --max-size: only formats that the CPU keeps compressed in memory.")
    ] = True,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
    as_json: Json = False,
) -> None:
    """Compress one model into a folder that loads in optimum-intel and OpenVINO GenAI."""
    from autotune.common.cache import Cache
    from autotune.compression.formats.table import parse_codebook
    from autotune.config.config import Calibration
    from autotune.study import single

    if group_size_fallback not in ("adjust", "ignore", "error"):
        raise UsageError(f"--group-size-fallback must be adjust, ignore or error, got {group_size_fallback!r}")
    if max_size is None and (allow or not runtime_compressed):
        raise UsageError("--allow and --no-runtime-compressed belong to --max-size; without it --mode says it all")
    if set(allow or ()) - {"int2", "int3"}:
        raise UsageError(f"--allow must be int2 or int3, got {', '.join(allow or ())}")
    if "int3" in (allow or ()) and runtime_compressed:
        raise UsageError("--allow int3: the CPU expands it when it loads a model; add --no-runtime-compressed")
    try:
        table = () if codebook is None else parse_codebook(codebook)
    except ValueError as error:
        raise UsageError(f"--codebook: {error}") from None
    settings = Settings(
        mode=mode,
        group_size=group_size,
        codebook=table,
        ratio=ratio,
        backup_mode=backup_mode,
        sensitivity_metric=sensitivity_metric,
        all_layers=all_layers,
        awq=awq,
        awq_data_free=awq_data_free,
        scale_estimation=scale_estimation,
        gptq=gptq,
        gptq_act_order=gptq_act_order,
        lora_correction=lora_correction,
        lora_rank=lora_rank,
        ignored_scope=tuple(ignored_scope or ()),
        group_size_fallback=group_size_fallback,  # type: ignore[arg-type]
    )
    texts = None
    if calibration is not None:
        where: dict[str, Any] = {"synthetic": True} if str(calibration) == SYNTHETIC else {"path": calibration}
        texts = Calibration.model_construct(**where, samples=samples, sequence_length=sequence_length)
    with listening() as listener:
        common: dict[str, Any] = {
            "calibration": texts,
            "cache": Cache.resolve(),
            "stage": listener.stage,
            "trust_remote_code": trust_remote_code,
        }
        if max_size is None:
            produced = single.compress(model, out, settings, **common)
        else:
            limit, measured_on = _size_asked_for(max_size, text, settings)
            common |= {"ignored_scope": settings.ignored_scope, "small": tuple(allow or ())}
            common["runtime_compressed"] = runtime_compressed
            produced = single.compress_to_size(model, out, limit, text=measured_on, **common)
    print_json(produced.as_dict()) if as_json else print_produced(produced)


def evaluate(
    model: Annotated[str, typer.Argument(help="The model to score.")],
    reference: Annotated[str | None, typer.Option(metavar="REF", help="The original to score it against.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="MODEL.YAML", help="Take original, evaluators and runtime from a study.")
    ] = None,
    evaluators: Annotated[
        list[str] | None, typer.Option(help="Names or module:attribute; repeatable. Default: all of the file, or both.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The text for perplexity and divergence, or synthetic.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The prompts for similarity, one a line.")
    ] = None,
    embedder: Annotated[str | None, typer.Option(metavar="NAME", help="The encoder for similarity.")] = None,
    sequence_length: Annotated[int | None, typer.Option(min=2, help="Tokens of a perplexity window.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="At most so many perplexity windows.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    as_json: Json = False,
) -> None:
    """Score one model against its original."""
    from autotune.common.formatting import score
    from autotune.study import single

    options: dict[str, dict[str, Any]] = {
        "perplexity": {
            "path": str(text) if text is not None and str(text) != SYNTHETIC else None,
            "synthetic": True if str(text) == SYNTHETIC else None,
            "sequence_length": sequence_length,
            "samples": samples,
        },
        "similarity": {
            "prompts": prompts and str(prompts),
            "embedder": embedder,
            "max_new_tokens": max_new_tokens,
        },
    }
    settings = single.evaluation_config(file=config, reference=reference, names=evaluators, options=options)
    with listening() as listener:
        measured = single.evaluate(model, settings, stage=listener.stage)
    if as_json:
        print_json({name: {"value": m.value, "stderr": m.stderr} for name, m in measured.items()})
        return
    width = max(map(len, measured))
    for name, m in measured.items():
        print(f"{name:{width}}  {score(m.value, m.stderr, name=name)}")


def _size_asked_for(max_size: str, text: Path | None, settings: Settings) -> tuple[int, Path]:
    """The size in bytes and the text of `compress --max-size`; options that it decides itself are refused."""
    from autotune.common.units import parse_bytes

    try:
        limit = parse_bytes(max_size)
    except ValueError as error:
        raise UsageError(f"--max-size: {error}") from error
    if text is None:
        raise UsageError("--max-size measures what each format costs and needs a text for it: add --text FILE")
    default = Settings(ignored_scope=settings.ignored_scope)
    for field in dataclasses.fields(settings):
        if getattr(settings, field.name) != getattr(default, field.name):
            option = field.name.replace("_", "-")
            raise UsageError(f"--max-size chooses format and algorithm of each weight by itself; leave out --{option}")
    return limit, text


EXAMPLES: dict[Callable[..., None], str] = {
    compress: "autotune compress HuggingFaceTB/SmolLM2-135M smol-int4 --mode int4_asym --group-size 64",
    evaluate: "autotune evaluate smol-int4 --reference HuggingFaceTB/SmolLM2-135M --text my.txt --json",
}


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command, example in EXAMPLES.items():
        app.command(rich_help_panel="Single steps", epilog=f"Example: {example}")(command)
