"""Find plugins by their packaging metadata and load them one at a time, each behind a guard.

Nothing is imported until `load` is called for one plugin, and whatever that plugin does (raise, exit, miss a
dependency, misspell a hook) ends as a one-line reason on its `PluginStatus`: it is quarantined, the rest goes on.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from nexus_core import printable
from nexus_core.types import Kind

if TYPE_CHECKING:
    import pluggy
    from packaging.requirements import Requirement

log = logging.getLogger("nexus.plugins")

# What a plugin of each kind must implement at the least to be of any use.
ESSENTIAL_HOOKS = {
    Kind.TEACHER: ("detect_model_category",),
    Kind.CAPABILITY: ("capability_metric",),
    Kind.TOWER: ("build_adapter", "decode"),
}


@dataclass(frozen=True, slots=True)
class PluginRef:
    """What the metadata says of one plugin, before anything of it is imported."""

    kind: Kind
    name: str
    module: str
    distribution: str
    version: str
    requires: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name under which pluggy knows it; the same name may exist once per kind."""
        return f"{self.kind.value}:{self.name}"

    @property
    def package(self) -> str:
        """The top-level package, where a `registry.yaml` fragment and `conformance.py` lie."""
        return self.module.split(":")[0].split(".")[0]


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """A plugin after an attempt to load it. `reason` is empty when it is loaded, one line when it is quarantined."""

    ref: PluginRef
    hooks: tuple[str, ...] = ()
    reason: str = ""

    @property
    def ok(self) -> bool:
        return not self.reason


class Quarantine(Exception):
    """Raised inside this module only: the one-line reason why a plugin is not used."""


def discover() -> list[PluginRef]:
    """Every installed plugin, sorted by kind and name. Reads `entry_points.txt` files, imports nothing."""
    kinds = {kind.group: kind for kind in Kind}
    found: dict[tuple[str, str, str], PluginRef] = {}
    live: dict[str, importlib.metadata.Distribution] = {}
    for dist in importlib.metadata.distributions():
        entries = [entry for entry in _entry_points(dist) if entry.group in kinds]
        if not entries:
            continue
        name, version, requires = _describe(dist)
        # An editable install can leave the same distribution on the path twice; the first one is the live one.
        if live.setdefault(name, dist) is not dist and name:
            continue
        for entry in entries:
            ref = PluginRef(kinds[entry.group], entry.name, entry.value, name, version, requires)
            found.setdefault((ref.key, name, ref.module), ref)
    return sorted(found.values(), key=lambda ref: (list(Kind).index(ref.kind), ref.name, ref.distribution))


def _entry_points(dist: importlib.metadata.Distribution) -> Iterable[importlib.metadata.EntryPoint]:
    """`importlib.metadata.entry_points` reads all of them and dies of one unreadable file; here that one is skipped."""
    try:
        return dist.entry_points
    except Exception as error:
        log.warning("an installed distribution has unreadable entry points: %s", one_line(error))
        return ()


def _describe(dist: importlib.metadata.Distribution) -> tuple[str, str, tuple[str, ...]]:
    """Name, version and requirements; nothing when its METADATA is gone, which an interrupted uninstall leaves."""
    try:
        return dist.name or "", dist.version or "", tuple(dist.requires or ())
    except Exception as error:
        log.warning("an installed distribution has unreadable metadata: %s", one_line(error))
        return "", "", ()


def new_manager() -> pluggy.PluginManager:
    """A manager that knows the six specs and no plugin."""
    import pluggy

    from nexus_core import hooks

    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    return manager


def load(ref: PluginRef, manager: pluggy.PluginManager, rivals: Iterable[PluginRef] = ()) -> PluginStatus:
    """Import and register one plugin; never raises for anything that the plugin does."""
    try:
        _refuse_rivals(ref, rivals)
        _check_requirements(ref)
        module = _import(ref)
        _check_api(module)
        return PluginStatus(ref, hooks=_register(ref, module, manager))
    except Quarantine as reason:
        return PluginStatus(ref, reason=str(reason))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the guard: a module's own __getattr__, an exception that is no Exception
        if manager.get_plugin(ref.key) is not None:
            manager.unregister(name=ref.key)
        return PluginStatus(ref, reason=f"loading {ref.module} failed: {one_line(error)}")


def _refuse_rivals(ref: PluginRef, rivals: Iterable[PluginRef]) -> None:
    others = sorted({r.distribution for r in rivals if r.key == ref.key and r.distribution != ref.distribution})
    if others:
        raise Quarantine(f"the name is also claimed by {', '.join(others)}; uninstall one of them")


def _check_requirements(ref: PluginRef) -> None:
    """Name the missing dependency before its ImportError would, with the version that is there."""
    for text in ref.requires:
        requirement = _requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            _check_requirement(requirement)


def _requirement(text: str) -> Requirement:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise Quarantine(f"its metadata holds an invalid requirement {text!r}") from error


def _check_requirement(requirement: Requirement, above: tuple[str, ...] = ()) -> None:
    """`above` are the requirements that led here by way of extras: an extra may name itself."""
    if str(requirement) in above:
        return
    try:
        dist = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        raise Quarantine(f"needs {requirement.name}, which is not installed") from None
    if not requirement.specifier.contains(dist.version, prereleases=True):
        raise Quarantine(f"needs {requirement.name}{requirement.specifier}, but {dist.version} is installed")
    for extra in requirement.extras:  # `nexus-core[ml]` is met only when what the extra brings is there
        for needed in map(_requirement, dist.requires or ()):
            if needed.marker and needed.marker.evaluate({"extra": extra}) and not needed.marker.evaluate({"extra": ""}):
                _check_requirement(needed, (*above, str(requirement)))


def _import(ref: PluginRef) -> ModuleType:
    name, _, attribute = ref.module.partition(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is the command's; what a plugin prints may not spoil it
            module = importlib.import_module(name)
            for part in filter(None, attribute.split(".")):
                module = getattr(module, part)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the guard: a plugin may do anything at import, exit included
        raise Quarantine(f"import of {ref.module} failed: {one_line(error)}") from error
    return module


def one_line(error: BaseException) -> str:
    """`Type: message` on one short line, with the place for a syntax error."""
    if isinstance(error, SyntaxError) and error.filename:
        return printable.one_line(f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})", printable.LIMIT)
    try:
        text = printable.one_line(str(error), printable.LIMIT)
    except Exception:  # a foreign __str__ may raise as well
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _check_api(module: ModuleType) -> None:
    from nexus_core.hooks import NEXUS_API

    theirs = getattr(module, "NEXUS_API", None)
    if theirs is None:
        raise Quarantine(f"declares no NEXUS_API; this nexus-core speaks {NEXUS_API}")
    if theirs != NEXUS_API:
        raise Quarantine(f"was written for NEXUS_API {theirs}; this nexus-core speaks {NEXUS_API}")


def _register(ref: PluginRef, module: ModuleType, manager: pluggy.PluginManager) -> tuple[str, ...]:
    import pluggy

    if (other := manager.get_name(module)) is not None:
        raise Quarantine(f"its module is registered already, as {other}")
    try:
        manager.register(module, name=ref.key)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        if manager.get_plugin(ref.key) is not None:
            manager.unregister(name=ref.key)
        raise Quarantine(_explain(error)) from error
    implemented = _implemented(module, manager)
    essential = ESSENTIAL_HOOKS[ref.kind]
    wrappers = [name for name, wraps in implemented.items() if wraps]
    if wrappers or not any(name in implemented for name in essential):
        manager.unregister(name=ref.key)
        if wrappers:
            raise Quarantine(f"hook {wrappers[0]} is a wrapper; Nexus calls plugins one by one and allows none")
        raise Quarantine(f"implements none of {', '.join(essential)}, which a {ref.kind.value} plugin is for")
    return tuple(sorted(implemented))


def _implemented(module: ModuleType, manager: pluggy.PluginManager) -> dict[str, bool]:
    """Hook name -> whether it is a wrapper, for the hooks that `module` implements."""
    callers = manager.get_hookcallers(module) or []
    return {
        caller.name: bool(impl.wrapper or impl.hookwrapper)
        for caller in callers
        for impl in caller.get_hookimpls()
        if impl.plugin is module
    }


def _explain(error: Exception) -> str:
    """pluggy's messages run over several lines; keep the fact and add what was probably meant."""
    text = one_line(error)
    if "unknown hook" in text:
        wrong = text.split("unknown hook")[1].split()[0].strip("'\"")
        close = difflib.get_close_matches(wrong, hook_names(), n=1)
        return f"implements an unknown hook {wrong!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    if "Argument(s)" in text:
        hook = text.split("for hook")[1].split()[0].strip("'\"")
        arguments = text.split("Argument(s)")[1].split("are declared")[0].strip(" {}")
        return f"hook {hook} takes {arguments}, which its specification does not have"
    return text.removeprefix("PluginValidationError: ")


def hook_names() -> list[str]:
    """The six hooks, in the order of hooks.py."""
    from nexus_core import hooks

    return [name for name, value in vars(hooks).items() if hasattr(value, f"{hooks.PROJECT}_spec")]


def registry_fragments(refs: Iterable[PluginRef]) -> list[tuple[str, Path]]:
    """(plugin, file) for each plugin that ships a `registry.yaml` beside its module. The plugin is not imported."""
    return [(ref.name, path) for ref in refs if (path := package_file(ref.package, "registry.yaml")) is not None]


def package_file(package: str, relative: str) -> Path | None:
    """A file inside an installed top-level package, found without importing it; None if either is absent."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for root in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(root) / relative).exists():
            return path
    return None
