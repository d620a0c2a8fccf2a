"""Table of the numeric formats: names, storage, levels, default group sizes, and CPU support; and user codebooks.

Names, default group sizes and restrictions are those of NNCF 3.4.0. Sources of the formats: NF4 from Dettmers et al.,
"QLoRA" (2023), appendix E; E2M1, E4M3, E8M0 and the MX formats from the OCP Microscaling Formats specification 1.0;
NVFP4 (groups of 16 with E4M3 scales under one float32 scale) from NVIDIA's description of Blackwell's tensor cores.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

Family = Literal["asymmetric", "symmetric", "levels", "minifloat"]

_STORAGE = {
    2: ("u2",),
    3: ("u3",),
    4: ("u4", "i4", "nf4", "f4e2m1"),
    8: ("u8", "i8", "f8e4m3", "f8e8m0"),
    16: ("f16",),
    32: ("f32",),
    64: ("i64",),
}
BITS = {storage: bits for bits, alike in _STORAGE.items() for storage in alike}
"""Bits of an element of each storage type."""

NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)

CB4_LEVELS = (
    *(-3.5, -2.5, -1.875, -1.375, -1.0, -0.625, -0.3125, 0.0),
    *(0.28125, 0.5625, 0.875, 1.125, 1.5, 2.0, 2.5, 3.5),
)
"""NNCF's default codebook; E4M3 holds every entry exactly."""

MOST_LEVELS = 256
"""Entries of a codebook whose indices have 8 bits."""

LARGEST_FLOAT16 = 65504


@dataclass(frozen=True, slots=True)
class Format:
    """Storage of numbers.

    Attributes:
        name: autotune's and NNCF's name.
        storage: OpenVINO's element type of the packed weight; of the indices where there is a codebook.
        family: which formulas apply: integers with or without a zero point, a sorted table of levels, or the numbers
            of a small floating-point type.
        lowest, highest: integer levels (integer families).
        levels: the sorted table (levels).
        largest: largest magnitude of an unscaled element (levels and minifloat).
        scale_storage: element type of the stored scale of a group; f8e8m0 is a power of two; f32 is for scales that
            come with a quantized checkpoint.
        scale_factors: other multiples of the range's scale that plain rounding tries; the least square error of
            the group decides.
        table_storage: element type of the codebook stored with the indices; empty if there is none.
        learns_levels: the codebook is fitted to each weight; until then `levels` stand for it.
        second_order_scale: what a stored f8e4m3 scale is multiplied by, one number for a whole weight; 0 as long as
            no weight has been looked at.
        group_size: the default; -1 is one group a row.
        fixed_group_size: whether the format has no other group size.
        backup: default format of the weights that do not get this one.
        takes_algorithms: whether AWQ, scale estimation, GPTQ and LoRA correction may be applied.
        runtime_compressed: operations ("matmul", "embedding", "experts": several matrices in one constant) that
            OpenVINO's CPU plugin computes from the packed weight. For all others (convolutions always) it expands the
            weight when the model is loaded, and the format saves disk space only. As OpenVINO 2026.4 does on x86-64;
            the tests look at its execution graph.
    """

    name: str
    storage: str
    family: Family
    lowest: int = 0
    highest: int = 0
    levels: tuple[float, ...] = ()
    largest: float = 1.0
    scale_storage: Literal["f16", "f32", "f8e8m0", "f8e4m3"] = "f16"
    scale_factors: tuple[float, ...] = ()
    table_storage: Literal["", "f8e4m3", "f16"] = ""
    learns_levels: bool = False
    second_order_scale: float = 0.0
    group_size: int = 128
    fixed_group_size: bool = False
    backup: str = "int8_asym"
    takes_algorithms: bool = True
    runtime_compressed: tuple[str, ...] = ("matmul",)

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return BITS[self.storage]

    @property
    def has_zero_point(self) -> bool:
        """True if every group stores a zero point in the element type of the weight."""
        return self.family == "asymmetric"

    @property
    def is_offset(self) -> bool:
        """True if signed levels are stored as unsigned ones, the lowest as 0 (there are no i2 and i3)."""
        return self.family == "symmetric" and self.storage.startswith("u")

    @property
    def bits_per_group(self) -> int:
        """Bits of a group in addition to its elements: scale and zero point."""
        return BITS[self.scale_storage] + (self.bits if self.has_zero_point else 0)


_ALL = ("matmul", "embedding", "experts")
_int8 = partial(Format, group_size=-1, fixed_group_size=True, takes_algorithms=False, runtime_compressed=_ALL)
_e2m1 = partial(Format, storage="f4e2m1", family="minifloat", largest=6.0)
_e4m3 = partial(
    Format, storage="f8e4m3", family="minifloat", largest=448.0, takes_algorithms=False, runtime_compressed=()
)
_codebook = partial(Format, storage="u4", family="levels", group_size=-1, runtime_compressed=())

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        _int8("int8_asym", "u8", "asymmetric", 0, 255),
        _int8("int8_sym", "i8", "symmetric", -128, 127),
        Format("int4_asym", "u4", "asymmetric", 0, 15, runtime_compressed=_ALL),
        Format("int4_sym", "i4", "symmetric", -8, 7, runtime_compressed=_ALL),
        Format("nf4", "nf4", "levels", levels=NF4_LEVELS),
        _e2m1("fp4"),
        _e2m1("mxfp4", scale_storage="f8e8m0", group_size=32, fixed_group_size=True),
        # The largest value at level 4 instead of 6 (Cook et al., "Four Over Six", 2025), or clipped by a sixteenth.
        _e2m1("nvfp4", scale_storage="f8e4m3", scale_factors=(1.5, 15 / 16), group_size=16, fixed_group_size=True),
        _e4m3("fp8_e4m3", backup="fp8_e4m3"),
        _e4m3("mxfp8_e4m3", scale_storage="f8e8m0", group_size=32, fixed_group_size=True, backup="mxfp8_e4m3"),
        _codebook("cb4", levels=CB4_LEVELS, largest=3.5, table_storage="f8e4m3"),
        # The table is the user's: `codebook_format` fills it in.
        _codebook("codebook", table_storage="f16"),
        _codebook("adaptive_codebook", levels=NF4_LEVELS, table_storage="f16", learns_levels=True),
        Format("int3_sym", "u3", "symmetric", -4, 3, runtime_compressed=()),
        Format("int2_sym", "u2", "symmetric", -2, 1),
    )
}


def float16(value: float) -> float:
    """Round a number to float16.

    Raises:
        OverflowError: it is larger than float16's largest number.
    """
    rounded: float = struct.unpack("<e", struct.pack("<e", value))[0]
    return rounded


@lru_cache(maxsize=16)
def codebook_format(levels: tuple[float, ...]) -> Format:
    """Return the format ``codebook`` with this table of 2 to 256 rising numbers, which is stored in float16.

    Indices take 4 bits up to 16 entries, 8 bits beyond.
    """
    stored = tuple(float16(level) for level in levels)
    return replace(
        FORMATS["codebook"],
        storage="u4" if len(stored) <= 16 else "u8",
        levels=stored,
        largest=max(abs(stored[0]), abs(stored[-1])),
    )


def parse_codebook(text: str) -> tuple[float, ...]:
    """Parse a codebook of the command line: numbers with commas between them, or a file.

    Raises:
        ValueError: neither a list of numbers nor such a file.
    """
    if "," in text:
        try:
            return tuple(float(word) for word in text.split(","))
        except ValueError:
            pass  # a file's name may have a comma
    return read_codebook(Path(text).expanduser())


def read_codebook(path: Path) -> tuple[float, ...]:
    """Read a codebook from a file.

    The file is ``.npy`` (one axis), ``.json`` (a list), or text: numbers separated by white space, commas or
    semicolons, with comments after ``#``.

    Raises:
        ValueError: no such file, or it holds anything but one list of numbers.
    """
    try:
        if path.suffix == ".npy":
            return _numbers(_load_npy(path))
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            return _numbers(json.loads(text))
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a list of numbers ({error})") from None
    words = re.sub(r"#.*", "", text).replace(",", " ").replace(";", " ").split()
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        raise ValueError(f"{path} is not a list of numbers ({error})") from None


def _load_npy(path: Path) -> Any:
    import numpy as np

    return np.load(path, allow_pickle=False).tolist()


def _numbers(data: Any) -> tuple[float, ...]:
    if not isinstance(data, list) or not all(type(each) in (int, float) for each in data):
        raise ValueError("it must be one flat list")
    return tuple(float(each) for each in data)
