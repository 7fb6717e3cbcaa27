"""The typed facade over the plugins: the only way by which the core calls one.

It decides which plugins may be loaded (before any is imported), calls hooks one plugin at a time so that an exception or
a wrong return value carries the plugin's and the hook's name, and settles who answers when several could.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexus_core.discovery import PluginRef, PluginStatus, discover, load, new_manager, one_line
from nexus_core.errors import ModelError, NexusError, PluginError, UsageError
from nexus_core.types import (
    AdapterPlan,
    CapabilityMetric,
    DecodeOptions,
    Detection,
    Kind,
    LoadOptions,
    ModelSource,
    PilotScores,
    Teacher,
)

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("nexus.plugins")

DEFAULT_BLOCKS = 3  # `select_layers` without special knowledge: the three blocks with the largest pilot drop


@dataclass(frozen=True, slots=True)
class Membership:
    """What belongs to which tower, as the registry says; needed to select by tower before anything is imported."""

    capabilities: Mapping[str, str]  # capability -> tower
    teachers: Mapping[str, str]  # teacher id -> tower


NO_MEMBERSHIP = Membership({}, {})


@dataclass(frozen=True, slots=True)
class Claim:
    """The detection that won, and the plugin that made it."""

    plugin: str
    detection: Detection


class Plugins:
    """The plugins of one run.

    `names` are towers, capabilities, teacher plugins or teacher ids (`--plugins text,voice`); None means
    $NEXUS_PLUGINS, and without that every installed plugin. An empty selection loads none. A plugin that is named but
    quarantined is an error; any other quarantined plugin is only listed. `extra` are plugins that need not be
    installed (they replace an installed one of the same name); they count as named.
    """

    def __init__(
        self,
        names: Iterable[str] | None = None,
        membership: Membership = NO_MEMBERSHIP,
        extra: Iterable[PluginRef] = (),
    ) -> None:
        if names is None and (text := os.environ.get("NEXUS_PLUGINS")) is not None:
            names = [name.strip() for name in text.split(",") if name.strip()]
        self._arguments = (None if names is None else tuple(names), membership, tuple(extra))
        self._extra = self._arguments[2]
        keys = {ref.key for ref in self._extra}
        self.refs = [ref for ref in discover() if ref.key not in keys] + list(self._extra)
        self._manager = new_manager()
        self._status: dict[PluginRef, PluginStatus] = {}
        self._sound: set[Kind] = set()  # kinds whose every selected plugin is loaded
        self._named, self._selected = self._select(self._arguments[0], membership)
        self._named |= keys
        self._selected |= keys

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process gets the same selection and loads the plugins for itself."""
        return (Plugins, self._arguments)

    # --- selection ----------------------------------------------------------------------------------------------

    def _select(self, names: tuple[str, ...] | None, membership: Membership) -> tuple[set[str], set[str]]:
        """Keys that were named, and keys that may be loaded."""
        if names is None:
            return set(), {ref.key for ref in self.refs}
        available = {ref.key for ref in self.refs}
        named: set[str] = set()
        towers: set[str] = set()
        selected: set[str] = set()
        for name in names:
            keys = {f"{kind.value}:{name}" for kind in Kind} & available
            if not keys and name not in membership.teachers:
                raise self._unknown(name, membership)
            named |= keys
            if f"{Kind.TOWER.value}:{name}" in keys:
                towers.add(name)
                selected |= {
                    f"{Kind.CAPABILITY.value}:{c}" for c, tower in membership.capabilities.items() if tower == name
                }
            towers |= {tower for table in (membership.capabilities, membership.teachers) if (tower := table.get(name))}
        selected |= named | {f"{Kind.TOWER.value}:{tower}" for tower in towers}
        if towers and not any(key.startswith(Kind.TEACHER.value) for key in named):
            # Teacher plugins recognise checkpoints of any tower, so a tower without a named teacher needs them all.
            selected |= {key for key in available if key.startswith(Kind.TEACHER.value)}
        return named, selected & available

    def _unknown(self, name: str, membership: Membership) -> UsageError:
        known = sorted({ref.name for ref in self.refs} | set(membership.teachers))
        close = difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean '{close[0]}'? " if close else ""
        return UsageError(f"no plugin or teacher is called '{name}'", f"{guess}list them with: nexus plugins")

    # --- loading ------------------------------------------------------------------------------------------------

    def status(self, kind: Kind | None = None) -> list[PluginStatus]:
        """Load every selected plugin (of one kind) and say how it went; nothing raises but a strict or named failure."""
        return [self._load(ref) for ref in self.refs if ref.key in self._selected and kind in (None, ref.kind)]

    def require(self) -> None:
        """Load all that was named (all that was selected, if strict); the first quarantined one is an error."""
        wanted = self._selected if _strict() else self._named
        for ref in self.refs:
            if ref.key in wanted:
                self._fail_if_required(self._load(ref))

    def _load(self, ref: PluginRef) -> PluginStatus:
        if ref not in self._status:
            self._status[ref] = load(ref, self._manager, rivals=self.refs)
            if not self._status[ref].ok:
                log.info("quarantined %s: %s", ref.key, self._status[ref].reason)
        return self._status[ref]

    def _fail_if_required(self, status: PluginStatus) -> None:
        if not status.ok and (_strict() or status.ref.key in self._named):
            raise PluginError(
                f"plugin {status.ref.name} ({status.ref.kind.value}) is quarantined: {status.reason}",
                f"see: nexus plugins check {status.ref.name}",
            )

    # --- calling ------------------------------------------------------------------------------------------------

    def answers(self, kind: Kind, hook: str, only: str | None = None, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """(plugin key, answer) of each selected plugin of `kind` that has one. `only` asks a single plugin, by key."""
        self._load_kind(kind, only)
        prefix = f"{kind.value}:"
        for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            key = impl.plugin_name
            if key == only or (only is None and key.startswith(prefix)):
                answer = self._call(key, hook, impl.function, {name: arguments[name] for name in impl.argnames})
                if answer is not None:
                    yield key, answer

    def _load_kind(self, kind: Kind, only: str | None) -> None:
        if kind in self._sound:  # a hook may be called per token; what is loaded and sound is not looked at again
            return
        wanted = [ref for ref in self.refs if ref.kind is kind and ref.key in self._selected]
        for ref in wanted:
            if only in (None, ref.key):
                self._fail_if_required(self._load(ref))
        if all(ref in self._status and self._status[ref].ok for ref in wanted):
            self._sound.add(kind)

    def _call(self, key: str, hook: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """One implementation, with whatever it raises attributed to it."""
        try:
            answer = function(**arguments)
        except NexusError as error:  # it speaks to the user; it only lacks the name of the speaker
            error.add_note(_where(key, hook))
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{_where(key, hook)}: {one_line(error)}",
                f"this is a fault of the plugin; see: nexus plugins check {key.split(':')[1]}",
            ) from error
        if answer is not None and (problem := _wrong_type(hook, answer)):
            raise PluginError(f"{_where(key, hook)}: {problem}", f"see: nexus plugins check {key.split(':')[1]}")
        return answer

    def _one(self, kind: Kind, hook: str, **arguments: Any) -> tuple[str, Any] | None:
        """The only answer, or None; two answers are an error, since the order of installation must not decide."""
        answers = list(self.answers(kind, hook, **arguments))
        if len(answers) > 1:
            names = " and ".join(key.split(":")[1] for key, _ in answers)
            about = arguments.get("name") or arguments.get("modality") or arguments.get("plan")
            raise PluginError(f"plugins {names} both answer {hook} for {about}", "select one of them with --plugins")
        return answers[0] if answers else None

    # --- the six hooks ------------------------------------------------------------------------------------------

    def detect(self, source: ModelSource) -> Claim:
        """Who knows what lies at `source`. A plugin that breaks is named in the log, unless it was selected by name."""
        if not source.path.exists():
            raise ModelError(f"{source.path}: no such file or directory", "check the path, or `nexus registry list`")
        claims, faults = self._claims(source)
        if not claims:
            if faults:
                raise faults[0]
            raise ModelError(
                f"{source.path}: no teacher plugin recognises this ({_looks_like(source)})",
                "list the plugins with `nexus plugins`; a new kind needs one: nexus plugins new teacher NAME",
            )
        best = max(claim.detection.confidence for claim in claims)
        winners = [claim for claim in claims if claim.detection.confidence == best]
        if len(winners) > 1:
            names = " and ".join(sorted(claim.plugin for claim in winners))
            raise PluginError(
                f"{source.path}: {names} claim it with the same confidence {best:g}",
                f"name the one you want: --plugins {winners[0].plugin}, or uninstall one",
            )
        return winners[0]

    def _claims(self, source: ModelSource) -> tuple[list[Claim], list[NexusError]]:
        """What was claimed, and what was said instead. Damage in one plugin's eyes does not hide another's claim."""
        claims: list[Claim] = []
        faults: list[NexusError] = []
        for status in self.status(Kind.TEACHER):
            key = status.ref.key
            try:
                answers = self.answers(Kind.TEACHER, "detect_model_category", only=key, source=source)
                claims += [Claim(status.ref.name, detection) for _, detection in answers]
            except NexusError as error:
                if isinstance(error, PluginError) and (key in self._named or _strict()):
                    raise
                log.warning("%s", error)
                faults.append(error)
        return claims, faults

    def load_teacher(self, source: ModelSource, options: LoadOptions | None = None) -> Teacher:
        """Load `source` by the plugin that won its detection."""
        claim = self.detect(source)
        key = f"{Kind.TEACHER.value}:{claim.plugin}"
        answers = list(
            self.answers(Kind.TEACHER, "load_teacher", only=key, source=source, options=options or LoadOptions())
        )
        if not answers:
            raise ModelError(
                f"{source.path}: plugin {claim.plugin} recognises it as {claim.detection.category.value} "
                f"({claim.detection.model_type}) but does not load it",
                "install a plugin that does: nexus plugins",
            )
        teacher: Teacher = answers[0][1]
        teacher.plugin = claim.plugin
        return teacher

    def select_layers(
        self, teacher: Teacher, capability: str, pilot: PilotScores, most: int = DEFAULT_BLOCKS
    ) -> list[str]:
        """The blocks that carry `capability`: what the teacher's own plugin says, else the `most` with the largest drop."""
        key = f"{Kind.TEACHER.value}:{teacher.plugin}"
        arguments = {"teacher": teacher, "capability": capability, "pilot": pilot}
        answers = list(self.answers(Kind.TEACHER, "select_layers", only=key, **arguments)) if teacher.plugin else []
        if not answers:
            return sorted(pilot.drops, key=lambda name: -pilot.drops[name])[:most]
        chosen = list(answers[0][1])
        if problem := _wrong_blocks(chosen, teacher.blocks):
            raise PluginError(
                f"plugin {teacher.plugin}, hook select_layers: {problem}",
                f"its blocks are {', '.join(list(teacher.blocks)[:3])} ...",
            )
        return chosen

    def capability_metric(self, name: str) -> CapabilityMetric:
        """The samples and the score of one capability."""
        answer = self._one(Kind.CAPABILITY, "capability_metric", name=name)
        if answer is None:
            known = [ref.name for ref in self.refs if ref.kind is Kind.CAPABILITY]
            quarantined = [s for s in self.status(Kind.CAPABILITY) if s.ref.name == name and not s.ok]
            close = difflib.get_close_matches(name, known, n=1)
            message = quarantined[0].reason if quarantined else "no installed plugin provides it"
            guess = f"did you mean '{close[0]}'? " if close and close[0] != name else ""
            raise PluginError(f"capability '{name}': {message}", f"{guess}list them with: nexus plugins")
        metric: CapabilityMetric = answer[1]
        return metric

    def build_adapter(self, plan: AdapterPlan) -> nn.Module:
        """The module of one adapter, from the plan's tower."""
        answer = self._one(Kind.TOWER, "build_adapter", plan=plan)
        if answer is None:
            raise PluginError(
                f"no tower plugin builds an adapter for tower '{plan.tower}'", "list them with: nexus plugins"
            )
        module: nn.Module = answer[1]
        return module

    def decode(self, modality: str, output: Any, options: DecodeOptions | None = None) -> Any:
        """What a user holds, from the student's raw output."""
        answer = self._one(Kind.TOWER, "decode", modality=modality, output=output, options=options or DecodeOptions())
        if answer is None:
            raise PluginError(f"no tower plugin decodes '{modality}'", "list them with: nexus plugins")
        return answer[1]


def _where(key: str, hook: str) -> str:
    return f"plugin {key.split(':')[1]}, hook {hook}"


def _strict() -> bool:
    return os.environ.get("NEXUS_STRICT") == "1"


def from_names(text: str | None) -> list[str] | None:
    """`--plugins a,b` as a list; None when the flag was not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _wrong_type(hook: str, answer: Any) -> str:
    """Why `answer` is not what `hook` returns, or an empty string."""
    wanted: Mapping[str, type] = {
        "detect_model_category": Detection,
        "load_teacher": Teacher,
        "capability_metric": CapabilityMetric,
    }
    if hook in wanted and not isinstance(answer, wanted[hook]):
        return f"returned {type(answer).__name__}, expected {wanted[hook].__name__} or None"
    if hook == "detect_model_category" and not (
        isinstance(answer.confidence, int | float) and 0.0 <= answer.confidence <= 1.0
    ):
        return f"returned a confidence of {answer.confidence!r}, expected 0 to 1"
    if hook == "select_layers" and (
        isinstance(answer, str) or not isinstance(answer, Collection) or not all(isinstance(a, str) for a in answer)
    ):
        return f"returned {type(answer).__name__}, expected a list of block names or None"
    if hook == "build_adapter":
        from torch import nn

        if not isinstance(answer, nn.Module):
            return f"returned {type(answer).__name__}, expected torch.nn.Module or None"
    return ""


def _wrong_blocks(chosen: list[str], blocks: Collection[str]) -> str:
    """Why `chosen` is no choice of blocks, or an empty string."""
    if not chosen:
        return "chose no block"
    if strangers := [name for name in chosen if name not in blocks]:
        return f"{strangers[0]!r} is not a block of this teacher"
    twice = [name for name in chosen if chosen.count(name) > 1]
    return f"chose {twice[0]!r} twice" if twice else ""


def _looks_like(source: ModelSource) -> str:
    """What a reader of the error needs in order to see why nobody claims it."""
    if source.path.is_file():
        return f"a {source.path.suffix or 'suffixless'} file"
    names = sorted(entry.name for entry in source.path.iterdir())
    return "an empty directory" if not names else f"it holds {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
