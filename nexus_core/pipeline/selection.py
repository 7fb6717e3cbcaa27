"""Stage 1: which teachers teach what, and what becomes of every other row, with the reason and the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from nexus_core.errors import DataError, ModelError, NexusError, PluginError, UsageError
from nexus_core.pipeline.presence import how_to_get
from nexus_core.registry import resolve_path
from nexus_core.registry.licence import refuse_licence

if TYPE_CHECKING:
    from nexus_core.pipeline.options import RunOptions
    from nexus_core.plugins import Plugins
    from nexus_core.registry import Registry, TeacherRow
    from nexus_core.types import CapabilityMetric


class Status(StrEnum):
    """What becomes of a teacher."""

    SELECTED = "selected"
    ABSENT = "absent"
    DROPPED = "dropped"
    MERGED = "merged"
    BACKBONE = "backbone"


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """One teacher of one capability."""

    teacher: str
    capability: str

    @property
    def name(self) -> str:
        return f"{self.teacher}/{self.capability}"


@dataclass(frozen=True, slots=True)
class Standing:
    """One row of the registry. `capabilities` are those that it teaches here; `how` is what to do about an absent one."""

    teacher: str
    status: Status
    reason: str = ""
    how: str = ""
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """`pairs` are what is profiled, in their order; `rows` are all teachers of the registry."""

    pairs: tuple[Pair, ...]
    rows: tuple[Standing, ...]
    metrics: Mapping[str, CapabilityMetric] = field(default_factory=dict)

    @property
    def capabilities(self) -> list[str]:
        """In the order of their names."""
        return sorted({pair.capability for pair in self.pairs})


@dataclass(frozen=True, slots=True, eq=False)
class Selector:
    """Decides over the registry's rows. `towers` are those that the student's preset has."""

    registry: Registry
    plugins: Plugins
    options: RunOptions
    towers: Sequence[str]
    kept: tuple[Pair, ...] = ()  # taught before: they stay, whatever is selected now

    def select(self) -> Selection:
        """Everything that can be taught of what was asked for; an error where that is nothing."""
        for name in self.options.teachers or ():
            self.registry.teacher(name)
        metrics = self._metrics()
        rows = [self._standing(row, metrics) for row in self.registry.teachers.values()]
        self._refuse_unmet(rows)
        chosen = {Pair(row.teacher, capability) for row in rows for capability in row.capabilities}
        taught = {pair.capability for pair in self.kept}
        pairs = sorted({*self.kept, *(pair for pair in chosen if pair.capability not in taught)})
        if not pairs:
            said = "; ".join(f"{row.teacher}: {row.reason}" for row in rows if row.status is not Status.BACKBONE)
            raise DataError(
                f"no teacher can teach anything here: {said or 'the registry has none'}",
                "install the zoo (make zoo), set the path of a teacher's row, or widen --plugins",
            )
        return Selection(tuple(pairs), tuple(self._after(row, pairs) for row in rows), metrics)

    def _metrics(self) -> dict[str, CapabilityMetric]:
        """Of every capability that a selected plugin measures."""
        found = {}
        for name in self.registry.capabilities:
            try:
                found[name] = self.plugins.capability_metric(name)
            except PluginError as error:
                if any(pair.capability == name for pair in self.kept):
                    raise DataError(
                        f"the student was taught {name}, and no plugin that is selected measures it ({error.message})",
                        f"install nexus-capability-{name.replace('_', '-')} again; or teach without it: nexus run --reset",
                    ) from error
                if "no installed plugin provides it" not in error.message:
                    raise
        return found

    def _standing(self, row: TeacherRow, metrics: Mapping[str, CapabilityMetric]) -> Standing:
        if row.role != "teacher":
            status = Status.BACKBONE if row.role == "backbone" else Status.DROPPED
            return Standing(row.id, status, f"its role in the registry is {row.role}: it teaches nothing")
        if row.refinement:
            return Standing(row.id, Status.DROPPED, "a super-teacher: it is added alone, after a bundle has passed")
        if row.fate is not None:
            status = Status.MERGED if row.fate.into else Status.DROPPED
            return Standing(row.id, status, str(row.fate), f"take `fate:` out of its row, {row.origin.path}")
        presence = resolve_path(row)
        if presence.path is None and not any(pair.teacher == row.id for pair in self.kept):
            return Standing(row.id, Status.ABSENT, presence.reason, how_to_get(row, presence.reason))
        if self.options.teachers is not None and row.id not in self.options.teachers:
            return Standing(row.id, Status.DROPPED, "not among --teachers")
        try:
            refuse_licence(row)
        except NexusError as error:
            return Standing(row.id, Status.DROPPED, error.message, error.hint)
        reasons = {name: self._unwanted(name, metrics) for name in row.capabilities}
        wanted = tuple(name for name, reason in reasons.items() if not reason)
        left = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)
        return Standing(row.id, Status.SELECTED if wanted else Status.DROPPED, left, capabilities=wanted)

    def _unwanted(self, name: str, metrics: Mapping[str, CapabilityMetric]) -> str:
        """Why this capability is not taught, or nothing."""
        row = self.registry.capability(name)
        if name not in metrics:
            by = " of --plugins" if self.options.plugins is not None else ""
            return f"no plugin{by} measures it"
        if row.isolated and name not in (self.options.plugins or ()):
            return f"isolated: it is opt-in, by --plugins {name}"
        if row.tower not in self.towers:
            return f"the preset {self.options.preset} has no tower {row.tower}"
        return ""

    def _refuse_unmet(self, rows: Sequence[Standing]) -> None:
        """Who names a teacher means it."""
        for row in rows:
            if row.teacher in (self.options.teachers or ()) and row.status is not Status.SELECTED:
                error = ModelError if row.status is Status.ABSENT else UsageError
                raise error(
                    f"teacher {row.teacher} is {row.status}: {row.reason}", row.how or "leave it out of --teachers"
                )

    def _after(self, row: Standing, pairs: Sequence[Pair]) -> Standing:
        """The row as it stands beside what was taught before."""
        own = tuple(pair.capability for pair in pairs if pair.teacher == row.teacher)
        if own and row.status is not Status.SELECTED:
            return Standing(row.teacher, Status.SELECTED, f"taught before ({row.reason})", capabilities=own)
        if late := [name for name in row.capabilities if name not in own]:
            by = {pair.capability: pair.teacher for pair in pairs}
            said = "; ".join(f"{name} is taught already, by {by[name]}" for name in late)
            reason = f"{said} (nexus run --reset compares them)"
            return Standing(row.teacher, Status.SELECTED if own else Status.DROPPED, reason, capabilities=own)
        return row if own == row.capabilities else Standing(row.teacher, row.status, row.reason, row.how, own)
