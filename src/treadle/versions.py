"""What a process runs on, and whether processes that work together run on the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["PACKAGES", "compare", "own_versions"]

#: Packages whose versions matter to who exchanges data and functions, if they are there.
PACKAGES: Final = ("cloudpickle", "msgspec", "numpy", "pandas", "pyarrow", "dask", "uvloop")


def own_versions(packages: Iterable[str] = ()) -> dict[str, str | None]:
    """The versions of this process by name; None for a package that is not installed.

    :param packages: more names, as packages are installed.
    """
    import platform
    from importlib import metadata  # takes as long to import as all of Treadle

    from treadle._version import __version__

    found: dict[str, str | None] = {"python": platform.python_version(), "treadle": __version__}
    for name in dict.fromkeys([*PACKAGES, *packages]):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def compare(found: Mapping[str, Any], packages: Iterable[str] = ()) -> list[str]:
    """What differs, a sentence for each package.

    :param found: what ``Client.get_versions`` returns.
    :param packages: those that everybody must have. Others may be missing.
    """
    members = {"the client": found["client"]}
    members.update((f"the worker {name}", versions) for name, versions in found["workers"].items())
    needed = set(packages)
    differences: list[str] = []
    for name in found["client"]:
        have = {member: _relevant(name, versions[name]) for member, versions in members.items()}
        if name in ("python", "treadle", "msgspec"):
            have["the scheduler"] = _relevant(name, found["scheduler"][name])
        if name not in needed:
            have = {member: version for member, version in have.items() if version is not None}
        if len(set(have.values())) > 1:
            differences.append(f"{name}: {_grouped(have)}")
    return differences


def _relevant(name: str, version: str | None) -> str | None:
    """Of a version the part that has to be the same."""
    return ".".join(version.split(".")[:2]) if name == "python" and version is not None else version


def _grouped(have: Mapping[str, str | None]) -> str:
    groups: dict[str | None, list[str]] = {}
    for member, version in have.items():
        groups.setdefault(version, []).append(member)
    return "; ".join(f"{version or 'none'} on {', '.join(members)}" for version, members in groups.items())
