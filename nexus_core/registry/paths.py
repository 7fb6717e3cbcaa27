"""Where a teacher's files are on this machine, found without importing anything."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from nexus_core.discovery import package_file
from nexus_core.registry.hiding import recover
from nexus_core.registry.model import Presence, TeacherRow

PACKAGE = "package:"


def resolve_path(row: TeacherRow) -> Presence:
    """The teacher's directory or file, or the reason why it is absent.

    `path` is relative to the file that the row came from, or `package:MODULE/relative/path`: a place inside an
    installed package, which is looked up by its top-level name and never imported.
    """
    if row.path is None:
        return Presence(None, f"no path (set `path:` at {row.origin.path}:{row.origin.line})")
    if row.path.startswith(PACKAGE):
        return _in_package(row.path.removeprefix(PACKAGE))
    path = row.origin.path.parent / Path(row.path).expanduser()
    return _existing(path)


def how_to_get(row: TeacherRow, reason: str) -> str:
    """What to do about an absent teacher: its row points into a package, or at a place of the user's."""
    listed = "or list what is here: nexus registry list"
    if not reason.startswith("the package "):
        return f"get {row.source or row.name} and set `path:` of its row, {listed}"
    module = str(row.path).removeprefix(PACKAGE).partition("/")[0]
    if reason.endswith(" is not installed"):
        return f"pip install {module.replace('_', '-')}, {listed}"
    return f"install a version of {module} that has it, make it by the package's README (the zoo's: make zoo), {listed}"


def _in_package(location: str) -> Presence:
    parts = PurePosixPath(location).parts
    module, rest = (parts[0], parts[1:]) if parts else ("", ())
    if ".." in parts or not module.isidentifier() or not rest:
        return Presence(None, f'"{PACKAGE}{location}" is not of the form {PACKAGE}MODULE/relative/path')
    found = package_file(module, str(PurePosixPath(*rest)))
    if found is not None:
        return _existing(found)
    home = package_file(module, ".")
    if home is None:
        return Presence(None, f"the package {module} is not installed")
    absent = f"the package {module} has no {PurePosixPath(*rest)}"
    return _existing(home / Path(*rest), absent)


def _existing(path: Path, absent: str = "") -> Presence:
    """What lies at `path`, also where a gate that was killed has left it hidden."""
    if not path.exists() and (reason := recover(path)):
        return Presence(None, f"{path} is {reason}")
    if path.is_dir():
        if any(path.iterdir()):
            return Presence(path, "present")
        return Presence(None, f"{path} is empty")
    if path.is_file():
        return Presence(path, "present")
    return Presence(None, absent or f"{path} does not exist")
