"""What one adapter is taught from: rows in the student's tokens, spaces and heads to be held to, the score to reach."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nexus_core.distill.align import Aligner, AlignSettings
from nexus_core.distill.attention_targets import HeadMap, map_heads
from nexus_core.distill.rows import Room, RowBuilder, StoredRows, check_tokenizer, gold_rows
from nexus_core.distill.settings import DataSettings
from nexus_core.distill.spaces import AnchorSpace, anchor_spaces
from nexus_core.distill.targets import TrainingRow
from nexus_core.distill.vocabulary import Vocabulary, load_vocabulary
from nexus_core.errors import DataError
from nexus_core.plugins import Plugins
from nexus_core.profiling import OUTPUT
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.cache import SignalCache
from nexus_core.profiling.heads import important_heads
from nexus_core.profiling.plan import PlanSettings, plan_capability
from nexus_core.registry import Registry
from nexus_core.registry.licence import refuse_use
from nexus_core.registry.paths import resolve_path
from nexus_core.student.arch import AdapterArch, StudentArch
from nexus_core.types import CapabilityMetric, Contract, Sample, SampleRequest, Split

SIGNALS, WORK = "signals", "distill"


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Of one capability. `held` are rows that training never sees; `teacher` is its score on the profile split; `lengths`
    are what batches are planned by, where that is not the rows' own."""

    arch: AdapterArch
    contract: Contract
    metric: CapabilityMetric
    teacher: float
    spaces: tuple[AnchorSpace, ...]
    heads: HeadMap
    rows: Sequence[TrainingRow]
    held: Sequence[TrainingRow]
    lengths: tuple[int, ...] | None = None

    @property
    def capability(self) -> str:
        return self.arch.capability

    @property
    def mean_lengths(self) -> tuple[float, float]:
        """Of a row, and of its answer."""
        lengths = self.lengths or [len(row) for row in self.rows]
        return sum(lengths) / len(self.rows), sum(len(row.answer_ids) for row in self.rows) / len(self.rows)

    @property
    def digest(self) -> str:
        """What decides an outcome beside the settings."""
        rows = hashlib.sha256()
        for row in (*self.rows, *self.held):
            rows.update(row.digest.encode())
            for array in (row.prompt_ids, row.answer_ids, row.kl.ids, row.kl.log_probs):
                rows.update(array.tobytes())
        spaces = [space.as_json() for space in self.spaces]
        heads = [asdict(head) for block in sorted(self.heads) for head in self.heads[block]]
        content = json.dumps([rows.hexdigest(), spaces, heads, self.teacher], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Gatherer:
    """Collects the material of a run. No teacher is loaded: its tokenizer and its cached signals are enough."""

    run: Path
    registry: Registry
    plugins: Plugins
    settings: DataSettings

    def gather(self, arch: StudentArch, capability: str, student: Vocabulary) -> Material:
        """The material of one capability."""
        adapter = arch.adapter(capability)
        stored = self.stored(arch, capability, student)
        # A cache that has grown holds some prompts twice; a held-out row must not be among those that are trained on.
        rows = list({row.digest: row for row in stored.read()}.values())
        held = min(self.settings.held, len(rows) // 10)
        return Material(
            arch=adapter,
            contract=self.registry.contract(capability, adapter.teacher),
            metric=self.plugins.capability_metric(capability),
            teacher=stored.of.baseline_score,
            spaces=stored.builder.spaces,
            heads=stored.builder.heads,
            rows=rows[: len(rows) - held],
            held=rows[len(rows) - held :],
        )

    def stored(self, arch: StudentArch, capability: str, student: Vocabulary) -> StoredRows:
        """Where the rows of one capability are, and how they are built."""
        adapter = arch.adapter(capability)
        refuse_use(self.registry.teacher(adapter.teacher), "distilled")
        profile = ProfileStore(self.run / OUTPUT).read(adapter.teacher, capability)
        contract = self.registry.contract(capability, adapter.teacher)
        plan = plan_capability(profile, contract, PlanSettings.of(self.registry.profiling))
        spaces = anchor_spaces(adapter.sites, profile, {block.block: block.slots for block in plan.blocks})
        found = important_heads(profile, contract.thresholds, self.registry.profiling.attention_heads)
        heads = map_heads(adapter.sites, found, int(arch.backbone["num_attention_heads"]))
        room = Room(
            int(arch.backbone["max_position_embeddings"]),
            self.plugins.capability_metric(capability).options.max_new_tokens,
        )
        teacher = self._vocabulary(adapter.teacher)
        check_tokenizer(profile, teacher)
        aligner = Aligner(teacher, student, AlignSettings(self.settings.list_most, self.settings.list_least))
        return StoredRows(
            self.run / WORK / capability / "rows.safetensors",
            SignalCache(self.run / SIGNALS, {adapter.teacher: profile.weights_hash}),
            profile,
            RowBuilder(aligner, spaces, room, heads),
        )

    def without_teacher(self, material: Material, arch: StudentArch, student: Vocabulary, seed: int) -> Material:
        """The same prompts in the same order with their reference answers: the control that knows no teacher."""
        metric, wanted = material.metric, {row.digest for row in material.rows}
        room = Room(int(arch.backbone["max_position_embeddings"]), metric.options.max_new_tokens)
        # Signals without an answer token became no rows, so the prompts may be of a few more samples than there are rows.
        most = 2 * (len(material.rows) + len(material.held))
        found: dict[str, Sample] = {}
        for data in dict.fromkeys([None, metric.drill]):
            for sample in itertools.islice(metric.samples(SampleRequest(Split.TRAIN, most, seed, data)), most):
                if sample.digest in wanted:
                    found[sample.digest] = sample
                if len(found) == len(wanted):
                    break
        if len(found) < len(wanted):
            raise DataError(
                f"{material.capability}: {len(wanted) - len(found)} prompts of the signals are not in the train split "
                f"of seed {seed}",
                "collect the signals with the seed that the study uses",
            )
        rows = gold_rows(student, [found[row.digest] for row in material.rows], room)
        return replace(material, rows=rows, spaces=(), heads={}, lengths=tuple(len(row) for row in material.rows))

    def _vocabulary(self, teacher: str) -> Vocabulary:
        presence = resolve_path(self.registry.teacher(teacher))
        if presence.path is None:
            raise DataError(
                f"the tokenizer of {teacher} is absent: {presence.reason}", "its tokenizer files alone would be enough"
            )
        return load_vocabulary(presence.path)
