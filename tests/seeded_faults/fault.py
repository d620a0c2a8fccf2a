"""Faults that the tests must find: small edits of the sources, each with the test that fails because of it.

They are of the kinds that reviews miss: an off-by-one, a wrong sign, a wrong axis, a key without one of its parts, `<`
for `<=`, a missing copy, swapped arguments. `run.py` applies them one by one.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Fault"]


class Fault(NamedTuple):
    """One seeded fault.

    Attributes:
        name: room and subject.
        file: path from the root of the repository.
        old: text that occurs once in the file.
        new: text that replaces it.
        test: node id of a test that passes without the fault and fails with it.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
