"""Stage 3: the student's shape, from what was profiled and nothing else. Same profiles, same registry, same answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nexus_core.architect.backbone import RANDOM, Backbone, find_backbone
from nexus_core.architect.budget import Budget, budget_of, relative, teacher_size
from nexus_core.architect.candidates import Candidate, choose, profiled, read_candidates
from nexus_core.architect.merge import choose_owner
from nexus_core.architect.presets import Preset, Presets
from nexus_core.architect.sites import Room, place, port_blocks
from nexus_core.architect.sizes import Sizes, sizes
from nexus_core.errors import DataError
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.overlap import OverlapOptions
from nexus_core.registry import Registry, resolve_path
from nexus_core.student.arch import VERSION, AdapterArch, Decision, RouterArch, StudentArch, TowerArch

_SUPER = "a super-teacher: it is added alone, after a bundle has passed"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be designed. `capabilities` empty: all that were profiled. `backbone` replaces the preset's: "random",
    an id of the registry or a path. `weights` is the hash of the weights that a teacher has now, where it was compared."""

    preset: str
    capabilities: tuple[str, ...] = ()
    backbone: str | None = None
    seed: int = 42
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Architect:
    """Reads profiles and the registry; writes nothing.

    >>> architect = Architect(ProfileStore(run / "niwt_stage2_output"), registry, load_presets())
    >>> write_arch(run / "student_arch.json", architect.design(Request("tiny")))
    """

    store: ProfileStore
    registry: Registry
    presets: Presets

    def design(self, request: Request) -> StudentArch:
        """The largest student of the preset that fits its budget, with a decision for everything that was decided."""
        preset = self.presets.preset(request.preset)
        owners, decisions = self._owners(request)
        if all(self.registry.capability(owner.profile.capability).isolated for owner in owners):
            only = ", ".join(owner.profile.capability for owner in owners)
            raise DataError(
                f"only isolated capabilities are planned: {only}", "plan one that the router may choose too"
            )
        backbone, why = self._backbone(preset, request.backbone)
        adapters, made = self._adapters(owners, preset, backbone)
        arch = StudentArch(
            version=VERSION,
            preset=preset.name,
            seed=request.seed,
            backbone=backbone.config,
            backbone_source=backbone.source,
            adapters=adapters,
            towers=self._towers(adapters, preset, backbone),
            router=_router(adapters, preset),
            decisions=(*decisions, why, *made),
        )
        arch = replace(arch, decisions=(*arch.decisions, *self._tower_decisions(arch.towers)))
        return _fill(arch, preset, self.budget(arch))

    def extend(self, before: StudentArch, request: Request) -> StudentArch:
        """The same student with an adapter more for each capability that is asked for, as large as fits beside the others.

        Backbone, adapters and towers that it has stay as they are; the reserve of `design` may be used.
        """
        preset = self.presets.preset(before.preset)
        owners, decisions = self._owners(request)
        backbone = Backbone(before.backbone, before.backbone_source)
        added, made = self._adapters(owners, preset, backbone)
        has = {tower.name for tower in before.towers}
        towers = tuple(tower for tower in self._towers(added, preset, backbone) if tower.name not in has)
        adapters = (*before.adapters, *added)
        arch = replace(
            before,
            adapters=adapters,
            towers=(*before.towers, *towers),
            router=_router(adapters, preset),
            decisions=(*before.decisions, *decisions, *made, *self._tower_decisions(towers)),
        )
        budget = replace(self.budget(arch), reserve=0.0)
        return _fill(arch, preset, budget, [adapter.capability for adapter in added])

    def _owners(self, request: Request) -> tuple[list[Candidate], list[Decision]]:
        """Which teacher owns the adapter of each wanted capability, and what becomes of every other."""
        found = profiled(self.store)
        wanted, decisions = choose(self.registry, found, request.capabilities)
        owners = []
        for capability in wanted:
            unfit = {name: decided for name in found[capability] if (decided := self._unfit(name, capability))}
            teachers = [name for name in found[capability] if name not in unfit]
            decisions += unfit.values()
            candidates = read_candidates(self.store, self.registry, capability, teachers, request.weights)
            owner, made = choose_owner(candidates, OverlapOptions(self.registry.profiling.overlap_heavy))
            owners += [owner] if owner else []
            decisions += [*made, *self._unprofiled(capability, found[capability])]
        if not owners:
            said = "; ".join(f"{d.subject}: {d.reason}" for d in decisions)
            raise DataError(f"no capability can be planned: {said}", "profile again: nexus profile --sample-size 500")
        return owners, decisions

    def budget(self, arch: StudentArch) -> Budget:
        """The limits that hold for a student."""
        preset = self.presets.preset(arch.preset)
        teachers = {adapter.teacher for adapter in arch.adapters} if relative(preset) else set()
        return budget_of(preset, {name: teacher_size(self.registry, name) for name in sorted(teachers)})

    def _unfit(self, teacher: str, capability: str) -> Decision | None:
        """What the registry says against a checkpoint as a teacher, or nothing."""
        row, subject = self.registry.teacher(teacher), f"{teacher}/{capability}"
        if row.fate is not None:
            into = f"into {row.fate.into}/{capability}: " if row.fate.into else ""
            return Decision(row.fate.action, subject, f"{into}{row.fate.reason} (the registry says so)")
        if row.role != "teacher":
            return Decision("drop", subject, f"its role in the registry is {row.role}: it teaches nothing")
        return Decision("drop", subject, _SUPER) if row.refinement else None

    def _unprofiled(self, capability: str, found: Sequence[str]) -> list[Decision]:
        """The registry's teachers of a capability that this run has no profile of."""
        decisions = []
        for row in self.registry.teachers_of(capability):
            if row.id in found or row.role != "teacher":
                continue
            if (unfit := self._unfit(row.id, capability)) is not None:
                decisions.append(unfit)
                continue
            if resolve_path(row).present:
                reason = f"no profile in this run (nexus profile --teacher {row.id} --capability {capability})"
            else:
                reason = "no profile in this run, and absent from this machine"
            decisions.append(Decision("drop", f"{row.id}/{capability}", reason))
        return decisions

    def _backbone(self, preset: Preset, asked: str | None) -> tuple[Backbone, Decision]:
        if asked is None or asked == RANDOM:
            backbone = find_backbone(self.registry, preset.source, preset.config)
            if asked == RANDOM:
                backbone = replace(backbone, source=RANDOM)
        else:
            backbone = find_backbone(self.registry, asked, None)
        by = "asked for" if asked else f"as the preset {preset.name} says"
        weights = "random first weights" if backbone.source == RANDOM else "its weights are where the student starts"
        return backbone, Decision("keep", f"backbone {backbone.source}", f"{by}; {weights}")

    def _adapters(
        self, owners: Sequence[Candidate], preset: Preset, backbone: Backbone
    ) -> tuple[tuple[AdapterArch, ...], list[Decision]]:
        """One adapter for each owner, with deltas of the least rank: `_fill` chooses how much more fits."""
        shape = backbone.config
        room = Room(shape["num_hidden_layers"], shape["hidden_size"], preset.adapters.rank_most, preset.name)
        adapters, decisions = [], []
        for owner in owners:
            row = self.registry.capability(owner.profile.capability)
            sites, made = place(owner, room)
            decisions += made
            adapters.append(
                AdapterArch(
                    capability=row.id,
                    tower=row.tower,
                    teacher=owner.profile.teacher,
                    sites=sites,
                    delta_rank=preset.adapters.delta_least,
                    delta_targets=preset.adapters.delta_targets,
                    isolated=row.isolated,
                )
            )
        return tuple(adapters), decisions

    def _towers(self, adapters: Sequence[AdapterArch], preset: Preset, backbone: Backbone) -> tuple[TowerArch, ...]:
        return tuple(
            self._tower(name, preset, [adapter for adapter in adapters if adapter.tower == name], backbone)
            for name in sorted({adapter.tower for adapter in adapters})
        )

    def _tower(self, name: str, preset: Preset, adapters: Sequence[AdapterArch], backbone: Backbone) -> TowerArch:
        if (shape := preset.towers.get(name)) is None:
            raise DataError(
                f'the preset {preset.name} has no tower "{name}", which {adapters[0].capability} needs',
                f"it has: {', '.join(preset.towers) or 'none'}; take another --preset, or leave the capability out",
            )
        latent = min(_latent(adapters, self.presets.tower_latent_factor), self.registry.tower(name).latent_max)
        if not shape.thought_tokens:
            return TowerArch(name, latent)
        ports = port_blocks(backbone.config["num_hidden_layers"], shape.port_every)
        return TowerArch(
            name, latent, shape.thought_tokens, ports, shape.port_heads, shape.port_head_dim, shape.feature_size
        )

    def _tower_decisions(self, towers: Sequence[TowerArch]) -> list[Decision]:
        decisions = []
        for tower in towers:
            most, factor = self.registry.tower(tower.name).latent_max, self.presets.tower_latent_factor
            size = f"latent size {tower.latent_size}, {factor:g} times the sum of its adapters' ranks"
            if tower.latent_size == most:
                decisions.append(Decision("cap", f"tower {tower.name}", f"{size}, and the registry allows {most}"))
            ports = f"{tower.thought_tokens} thought tokens, ports after {len(tower.port_blocks)} blocks"
            if not tower.thought_tokens:
                ports = "no thought tokens and no ports: what it hears comes in as the backbone's own tokens"
            decisions.append(Decision("add", f"tower {tower.name}", f"{size}; {ports}"))
        return decisions


def _latent(adapters: Sequence[AdapterArch], factor: float) -> int:
    ranks = sum(site.rank for adapter in adapters for site in adapter.sites)
    return math.ceil(round(factor * ranks, 6))  # 1.2 x 10 is 12, not 12.000000000000002 and so 13


def _router(adapters: Sequence[AdapterArch], preset: Preset) -> RouterArch:
    """Isolated capabilities are no classes: only their name reaches them."""
    classes = tuple(adapter.capability for adapter in adapters if not adapter.isolated)
    return RouterArch(
        classes, preset.router.buckets, preset.router.width, min(preset.router.most, max(len(classes), 1))
    )


def _fill(arch: StudentArch, preset: Preset, budget: Budget, names: Collection[str] | None = None) -> StudentArch:
    """The largest rank of the deltas, the same for all adapters (or those of `names`), with which the student stays within
    its budget."""
    least, most = preset.adapters.delta_least, preset.adapters.delta_most
    if over := budget.exceeded(sizes(arch), budget.reserve):
        raise _too_large(arch, preset, budget, over[1])
    rank = least
    while rank < most and not budget.exceeded(sizes(with_deltas(arch, rank + 1, names)), budget.reserve):
        rank += 1
    arch = with_deltas(arch, rank, names)
    if not preset.adapters.delta_targets:
        reason = f"none: the preset {preset.name} has no targets for them"
    elif rank == most:
        reason = f"rank {rank}: the preset {preset.name} allows no more"
    else:
        limit, _ = budget.exceeded(sizes(with_deltas(arch, rank + 1, names)), budget.reserve) or (None, 0)
        assert limit is not None  # or the loop above had gone on
        whose = "the same for all" if names is None else f"for {', '.join(names)}"
        reason = f"rank {rank}, {whose}: more would exceed {limit.why}{_kept_back(budget)}"
    return replace(arch, decisions=(*arch.decisions, Decision("add", "deltas", reason)))


def _kept_back(budget: Budget) -> str:
    return f", of which {budget.reserve:.0%} stay free for an adapter that must grow" if budget.reserve else ""


def with_deltas(arch: StudentArch, rank: int, names: Collection[str] | None = None) -> StudentArch:
    """The same student with deltas of this rank in every adapter, or in those of `names`."""
    adapters = (
        replace(adapter, delta_rank=rank) if names is None or adapter.capability in names else adapter
        for adapter in arch.adapters
    )
    return replace(arch, adapters=tuple(adapters))


def _too_large(arch: StudentArch, preset: Preset, budget: Budget, over: int) -> DataError:
    limit = (budget.exceeded(sizes(arch), budget.reserve) or (budget.limits[0], 0))[0]
    found: Sizes = sizes(arch)
    parts = ", ".join(f"{name} {count:,}" for name, count in found.parts.items())
    return DataError(
        f"the smallest student of the preset {preset.name} has {limit.used(found):,} parameters in {limit.part} ({parts}): "
        f"{over:,} more than allowed, which is {limit.why}{_kept_back(budget)}",
        "plan more teachers together where the budget is a share of theirs, leave out a capability where adapters are too "
        "many, or take another --preset, --backbone or --presets FILE (adapters.rank_most, delta_rank.least, budget)",
    )
