"""Print the packages that an installation of ov-autotune brings along, for `make audit`.

python benchmarks/requirements.py
"""

from __future__ import annotations

import re
from importlib import metadata


def requirements(name: str, found: dict[str, None]) -> dict[str, None]:
    """Add the installed packages that `name` needs, directly or not, without extras; returns `found`."""
    for requirement in metadata.requires(name) or ():
        package = re.split(r"[ \[<>=!~;(]", requirement)[0]
        if "extra ==" in requirement or package in found:
            continue
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:  # of another platform or Python
            continue
        found[package] = None
        requirements(package, found)
    return found


def main() -> None:
    print(*requirements("ov-autotune", {}))


if __name__ == "__main__":
    main()
