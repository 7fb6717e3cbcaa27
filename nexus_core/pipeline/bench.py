"""What every unit of one run works with, and what identifies it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.architect.backbone import RANDOM, locate_backbone
from nexus_core.architect.presets import Preset, load_presets
from nexus_core.errors import DataError
from nexus_core.pipeline.stages.profile import Amounts
from nexus_core.registry import resolve_path
from nexus_core.types import Kind, LoadOptions, ModelSource, SampleRequest, Split

if TYPE_CHECKING:
    from nexus_core.pipeline.hashes import Hashes
    from nexus_core.pipeline.ladder import Measured, Rung
    from nexus_core.pipeline.options import RunOptions
    from nexus_core.pipeline.selection import Pair, Selection
    from nexus_core.pipeline.units import Ledger
    from nexus_core.plugins import Plugins
    from nexus_core.registry import Registry
    from nexus_core.types import Contract

LOOKED_AT = 64  # samples whose lengths stand for those of all


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """The frozen configuration of a run. Rounds: what is taught together first, and what was added to it, in order."""

    options: RunOptions
    rung: Rung
    measured: Measured
    registry: Registry
    plugins: Plugins
    ledger: Ledger
    hashes: Hashes
    selection: Selection
    rounds: tuple[tuple[Pair, ...], ...]
    lengths: dict[tuple[str, bool], float] = field(default_factory=dict)  # what `characters` has found

    @property
    def run(self) -> Path:
        return self.options.run

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Everything that is taught, in the order in which it is."""
        return tuple(pair for taught in self.rounds for pair in taught)

    @property
    def gate_samples(self) -> int:
        """Asked by the gate, and of the teachers before."""
        return min(self.rung.verify, self.registry.gate.samples)

    @property
    def held_back(self) -> int:
        """Samples that a profile is verified on."""
        return min(self.rung.held_back, self.registry.profiling.verify_samples)

    @property
    def blocks(self) -> int:
        """Blocks that a profile looks at."""
        return min(self.rung.blocks, self.registry.profiling.layers)

    @property
    def load_options(self) -> LoadOptions:
        """How teachers are loaded."""
        return LoadOptions(device=self.options.device, quantization=self.options.quantization)

    def contract(self, pair: Pair) -> Contract:
        """Of a capability, as this teacher's row changes it."""
        return self.registry.contract(pair.capability, pair.teacher)

    def preset(self) -> Preset:
        """The student's shape."""
        return load_presets().preset(self.options.preset)

    def characters(self, pair: Pair, drill: bool = False) -> float:
        """Mean length of a sample's prompt and answer."""
        if (pair.capability, drill) not in self.lengths:
            self.lengths[pair.capability, drill] = self._length(pair, drill)
        return self.lengths[pair.capability, drill]

    def _length(self, pair: Pair, drill: bool) -> float:
        metric = self.selection.metrics[pair.capability]
        data = metric.drill if drill else self.options.datasets.get(pair.capability)
        request = SampleRequest(Split.TRAIN, LOOKED_AT, self.options.seed, data)
        samples = list(itertools.islice(metric.samples(request), LOOKED_AT))
        if not samples:
            raise DataError(f"{pair.capability} has no train samples in {data or 'its own data'}", "see --datasets")
        return sum(len(sample.prompt) + len(sample.target) for sample in samples) / len(samples)

    def amounts(self, pair: Pair) -> Amounts:
        """Samples of one pair: signals, drill, gate."""
        signals = max(1, min(self.rung.signals, int(self.rung.characters / self.characters(pair))))
        drilled = self.selection.metrics[pair.capability].drill and pair.capability not in self.options.datasets
        return Amounts(signals, round(signals * self.rung.drill) if drilled else 0, self.gate_samples)

    # --- identities -------------------------------------------------------------------------------------------------

    def code(self, *plugins: tuple[Kind, str]) -> dict[str, str]:
        """Versions of the core and of these plugins."""
        found = {ref.key: f"{ref.distribution} {ref.version}" for ref in self.plugins.refs}
        named = {f"{kind.value}:{name}" for kind, name in plugins}
        return {"nexus-core": version("nexus-core"), **{key: found[key] for key in sorted(named & set(found))}}

    def teacher_identity(self, pair: Pair) -> dict[str, Any]:
        """Its files, and the plugin that loads it. Of one that is away, what its profile was made from."""
        presence = resolve_path(self.registry.teacher(pair.teacher))
        if presence.path is None:
            record = self.ledger.record(f"profile/{pair.name}")
            if record is None or "teacher" not in record.facts:
                raise DataError(f"teacher {pair.teacher} is absent: {presence.reason}", "put it back, or leave it out")
            return dict(record.facts["teacher"])
        plugin = self.plugins.detect(ModelSource(presence.path, pair.teacher)).plugin
        return {"files": self.hashes.of(presence.path), "code": self.code((Kind.TEACHER, plugin))}

    def data_identity(self, capability: str) -> str | None:
        """A dataset's content where it is a path, else its name."""
        if (data := self.options.datasets.get(capability)) is None:
            return None
        return self.hashes.of(Path(data)) if Path(data).exists() else data

    def backbone_identity(self) -> Mapping[str, Any]:
        """Where the student starts: files of a checkpoint, and of a tokenizer that was named."""
        source = self.options.backbone or self.preset().source or RANDOM
        words = self.options.tokenizer
        files = None if source == RANDOM else self.hashes.of(locate_backbone(self.registry, source)[0])
        return {"source": source, "files": files, "tokenizer": None if words is None else self.hashes.of(words)}
