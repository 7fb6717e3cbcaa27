"""Run a plugin's conformance classes without pytest, for `nexus plugins check`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_core.discovery import PluginRef, discover, one_line
from nexus_core.errors import NexusError, PluginError, UsageError
from nexus_core.testing.base import CheckFailed, Conformance
from nexus_core.types import Kind


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One row of the table: `detail` is empty when the check passed."""

    plugin: str
    check: str
    detail: str

    @property
    def ok(self) -> bool:
        return not self.detail


def find_subjects(target: str) -> list[PluginRef]:
    """The plugins that `target` means: a directory with a pyproject.toml, or the name of installed ones."""
    installed = discover()
    found = [ref for ref in installed if target in (ref.name, ref.distribution)]
    if not found and target and _is_dir(target):
        return refs_of_project(Path(target))
    if not found:
        close = difflib.get_close_matches(target, {ref.name for ref in installed}, n=1)
        guess = f"did you mean '{close[0]}'? " if close else ""
        raise UsageError(
            f"'{target}' is neither an installed plugin nor a directory", f"{guess}list the plugins with: nexus plugins"
        )
    return found


def _is_dir(target: str) -> bool:
    try:
        return Path(target).is_dir()
    except OSError:  # longer than a file name can be
        return False


def refs_of_project(root: Path) -> list[PluginRef]:
    """The plugins that a project directory declares, importable from its `src`, installed or not."""
    file = root / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{root} holds no pyproject.toml", "give the plugin's own directory") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise PluginError(f"{file}: {one_line(error)}", "correct the file") from error
    refs = _declared(file, project)
    if not refs:
        groups = ", ".join(kind.group for kind in Kind)
        raise PluginError(f"{file} declares no entry point in {groups}", "see docs/plugins/tutorial.md")
    for folder in (root / "src", root):
        if folder.is_dir() and str(folder.resolve()) not in sys.path:
            sys.path.insert(0, str(folder.resolve()))
            importlib.invalidate_caches()
            break
    return refs


def _declared(file: Path, document: dict[str, Any]) -> list[PluginRef]:
    """The entry points in our groups, with what [project] says of their distribution."""

    def expect(value: object, kind: type, where: str) -> Any:
        if not isinstance(value, kind):
            raise PluginError(f"{file}: {where} is a {type(value).__name__}, expected a {kind.__name__}", "correct it")
        return value

    project = expect(document.get("project", {}), dict, "[project]")
    entries = expect(project.get("entry-points", {}), dict, "[project.entry-points]")
    requires = expect(project.get("dependencies", []), list, "project.dependencies")
    refs: list[PluginRef] = []
    for kind in Kind:
        table = expect(entries.get(kind.group, {}), dict, f"entry-points.{kind.group}")
        for name, value in table.items():
            module = expect(value, str, f"entry-points.{kind.group}.{name}")
            distribution = expect(project.get("name", ""), str, "project.name")
            version = expect(project.get("version", ""), str, "project.version")
            refs.append(PluginRef(kind, name, module, distribution, version, tuple(map(str, requires))))
    return refs


def run_checks(ref: PluginRef) -> Iterator[CheckResult]:
    """Every check of every conformance class that the plugin ships, one result at a time."""
    first = CheckResult(ref.name, "conformance: the package ships conformance.py with a class for this plugin", "")
    try:
        classes = conformance_classes(ref)
    except CheckFailed as error:
        yield CheckResult(ref.name, first.check, str(error))
        classes = [_bare(ref)]  # what needs no fixture is still checked
    else:
        yield first
    done: set[str] = set()  # what holds for the plugin as a whole is checked once, not once per class
    for cls in classes:
        case = cls()
        case.ref = ref
        for name in _checks(cls):
            if name in vars(Conformance) and name in done:
                continue
            done.add(name)
            method = getattr(case, name)
            title = (inspect.getdoc(method) or name).splitlines()[0]
            if len(classes) > 1 and name not in vars(Conformance):
                title += f" [{cls.__name__}]"
            yield CheckResult(ref.name, title, _failure(method))


def _checks(cls: type[Conformance]) -> list[str]:
    """Names of the checks in the order in which they are written, the base class's first."""
    bases = [Conformance, *(base for base in cls.__mro__ if base is not Conformance)]
    names = [name for base in bases for name in vars(base) if name.startswith("test_")]
    return list(dict.fromkeys(names))


def conformance_classes(ref: PluginRef) -> list[type[Conformance]]:
    """The classes in the package's `conformance.py` that are about `ref`."""
    name = f"{ref.package}.conformance"
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a plugin may do anything at import
        raise CheckFailed(f"import of {name} failed: {one_line(error)}") from error
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Conformance)
        and value.plugin == ref.name
        and value.kind is ref.kind
    ]
    if not found:
        raise CheckFailed(f"{name} has no class whose `plugin` is {ref.name!r} and whose kind is {ref.kind.value}")
    return found


def _bare(ref: PluginRef) -> type[Conformance]:
    return type("Bare", (Conformance,), {"kind": ref.kind, "plugin": ref.name})


def _failure(method: object) -> str:
    assert callable(method)
    try:
        method()
    except CheckFailed as error:
        return str(error)
    except NexusError as error:
        return " ".join([str(error), *(f"({note})" for note in getattr(error, "__notes__", []))])
    except (Exception, SystemExit) as error:  # the check's verdict on foreign code, whatever it raises
        return one_line(error)
    return ""
