"""Profile one teacher on one capability: perturb, map, decompose, verify by ablation.

The order is that of the specification: samples, baseline, pilot, chosen blocks, spectra, causal test, reconstruction,
heads and other perturbations. What is not found is said, with what was tried; nothing is guessed instead.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from nexus_core.errors import ModelError, NexusError
from nexus_core.plugins import Plugins
from nexus_core.profiling import measure
from nexus_core.profiling.attention import missing_attention
from nexus_core.profiling.draw import draw_samples, split_off
from nexus_core.profiling.model import (
    BlockProfile,
    CapabilityProfile,
    ComponentClass,
    ComponentResult,
    HeadResult,
    PerturbationResult,
    ReconstructionResult,
    VerifyOutput,
)
from nexus_core.profiling.perturb import perturbed_decoding, perturbed_prompts, perturbed_weights
from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.sites import Site, find_sites
from nexus_core.stats import binomial_interval
from nexus_core.types import CapabilityMetric, Contract, PilotScores, Teacher

Say = Callable[[str], None]


class NothingToProtect(ModelError):
    """The teacher does not have the capability at all."""


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """How much to measure. The numbers come from the `profiling` section of registry.yaml."""

    sample_size: int
    pilot: int
    verify: int
    blocks: int
    components: int
    k: int
    k_middle: int
    max_drop: float
    layers: tuple[str, ...] = ()  # empty: `select_layers` decides
    seed: int = 42
    data: str | None = None


@dataclass(slots=True)
class _Findings:
    """What accumulates while blocks are measured."""

    blocks: list[BlockProfile] = field(default_factory=list)
    heads: list[HeadResult] = field(default_factory=list)
    perturbations: list[PerturbationResult] = field(default_factory=list)
    reconstruction: list[ReconstructionResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Profiler:
    """One profiling run; `say` is told of every step, `heartbeat` of every forward or batch."""

    plugins: Plugins
    teacher: Teacher
    metric: CapabilityMetric
    contract: Contract
    settings: ProfileSettings
    say: Say = lambda text: None
    heartbeat: Callable[[], None] = lambda: None

    def run(self) -> tuple[CapabilityProfile, Scorer]:
        """The profile, and the scorer with the baseline answers that it rests on."""
        started = time.monotonic()
        settings = self.settings
        samples = draw_samples(self.metric, settings.sample_size + settings.verify, settings.seed, settings.data)
        self._check_layers()
        sites = find_sites(self.teacher, self.teacher.encode(samples[:2]))
        self.say(f"baseline on {len(samples)} samples")
        scorer = Scorer(self.teacher, self.metric, samples, self.heartbeat)
        order, verify = split_off(samples, settings.sample_size, settings.verify)
        findings = _Findings()
        self._warn_of_few(len(order), findings)
        self._refuse_hopeless(scorer)
        pilot = self._pilot(scorer, sites, order, findings)
        chosen = self._choose(pilot, sites, scorer, findings)
        self.say(f"blocks: {', '.join(site.name for site in chosen) or 'none'}")
        self._blocks(scorer, chosen, order, verify, findings)
        self._perturb(scorer, chosen, order, findings)
        return self._profile(scorer, pilot, verify, findings, time.monotonic() - started), scorer

    def _refuse_hopeless(self, scorer: Scorer) -> None:
        """A teacher that gets nothing right has nothing to protect, and a drop from it could not be seen."""
        if scorer.metric.direction == "higher" and not scorer.baseline.scores.any():
            raise NothingToProtect(
                f"{self.teacher.source.teacher_id or self.teacher.source.path} scores 0 on {self.metric.name} "
                f"({len(scorer.samples)} samples): there is nothing to protect",
                "choose a capability that this teacher has: nexus eval TEACHER --capability NAME",
            )

    def _check_layers(self) -> None:
        known = list(self.teacher.blocks)
        if strangers := [name for name in self.settings.layers if name not in known]:
            raise NexusError(f"{strangers[0]!r} is not a block of this teacher", f"its blocks: {', '.join(known)}")
        if len(set(self.settings.layers)) < len(self.settings.layers):
            raise NexusError("a block is named twice in --layers", "name each once")

    def _warn_of_few(self, n: int, findings: _Findings) -> None:
        """What so few samples cannot decide, before anybody waits for it."""
        threshold = self.contract.thresholds.non_negotiable
        if (bound := binomial_interval(0, n)[1]) > threshold:
            findings.notes.append(
                f"with {n} samples even a component that changes no answer may cost {bound:.3f}, above the {threshold:g} of "
                "a non-negotiable one: what is not shown to be harmless is protected by caution"
            )
            self.say(findings.notes[-1])

    def _pilot(
        self, scorer: Scorer, sites: Sequence[Site], order: Sequence[int], findings: _Findings
    ) -> dict[str, float]:
        """Bypass each block on a few samples; on all of them if the few showed nothing."""
        few = order[: self.settings.pilot]
        self.say(f"pilot: bypassing each of {len(sites)} blocks on {len(few)} samples")
        drops = measure.pilot(scorer, sites, few, self.settings.seed)
        if max(drops.values(), default=0.0) >= self.contract.thresholds.recoverable:
            return drops
        self.say(f"the pilot showed no drop; again on {len(order)} samples")
        drops = measure.pilot(scorer, sites, order, self.settings.seed)
        largest = max(drops.values(), default=0.0)
        if largest < self.contract.thresholds.recoverable:
            findings.notes.append(
                f"no block carries {self.metric.name}: bypassing each of {len(sites)} blocks in turn on {len(few)} and then "
                f"on {len(order)} samples cost at most {largest:.4g}"
            )
        return drops

    def _choose(
        self, pilot: dict[str, float], sites: Sequence[Site], scorer: Scorer, findings: _Findings
    ) -> list[Site]:
        by_name = {site.name: site for site in sites}
        if self.settings.layers:
            return [by_name[name] for name in self.settings.layers]
        scores = PilotScores(
            pilot, scorer.value(scorer.baseline.scores, range(len(scorer.samples))), self.settings.pilot
        )
        names = self.plugins.select_layers(self.teacher, self.metric.name, scores, self.settings.blocks)
        # A block whose bypass costs nothing carries nothing, whoever proposes it.
        carrying = [name for name in names if pilot[name] >= self.contract.thresholds.recoverable]
        if carrying and len(carrying) < len(names):
            findings.notes.append(f"only {len(carrying)} of the {len(names)} blocks that were proposed cost anything")
        return sorted((by_name[name] for name in carrying), key=lambda site: site.index)

    def _blocks(
        self,
        scorer: Scorer,
        chosen: Sequence[Site],
        order: Sequence[int],
        verify: Sequence[int],
        findings: _Findings,
    ) -> None:
        last = len(self.teacher.blocks) - 1
        done: list[tuple[measure.Spectrum, Sequence[int]]] = []
        trial = measure.Trial(order[: len(verify)], verify, self.settings.max_drop, self.settings.seed)
        for site in chosen:
            k = self.settings.k_middle if 0 < site.index < last else self.settings.k
            self.say(f"{site.name}: spectrum and causal test")
            # One block per pass: a covariance of a wide model is large, and only one is in memory at a time.
            (spectrum,) = measure.spectra(scorer, [site], order, self.settings.k, self._pooled)
            spectrum = replace(spectrum, tested=k)
            components, note = self._classify(scorer, spectrum, order)
            kept, tried = measure.reconstruct(scorer, spectrum, components, trial)
            findings.reconstruction += tried
            if not tried[-1].passed:
                lost = f"even {tried[-1].k} components lose {tried[-1].drop:.4g} on the verification samples"
                note = f"{note}; {lost}" if note else lost
            done.append((spectrum, kept))
            block = self._block(scorer, spectrum, components, kept, note, [*order, *verify])
            held = measure.tolerance(scorer, spectrum, kept, trial) if tried[-1].passed else None
            findings.blocks.append(replace(block, tolerance=held))
        if len(done) > 1:
            findings.reconstruction.append(measure.reconstruct_together(scorer, done, trial))

    @property
    def _pooled(self) -> bool:
        """Whether the capability is a property of the whole answer (who speaks), not of its tokens."""
        return self.metric.pooled

    def _block(
        self,
        scorer: Scorer,
        spectrum: measure.Spectrum,
        components: Sequence[ComponentResult],
        kept: tuple[int, ...],
        note: str,
        everyone: Sequence[int],
    ) -> BlockProfile:
        site, protected = spectrum.site, spectrum.pca.select(list(kept))
        return BlockProfile(
            block=site.name,
            index=site.index,
            dim=site.width,
            pooling="mean" if self._pooled else "tokens",
            positions="answer",
            pca=protected,
            component_indices=kept,
            coords=measure.pooled_coordinates(scorer, site, protected, everyone),
            explained_variance=tuple(spectrum.pca.fractions.tolist()),
            components=tuple(components),
            note="; ".join(filter(None, [note, spectrum.pca.note, *site.notes])),
        )

    def _classify(
        self, scorer: Scorer, spectrum: measure.Spectrum, order: Sequence[int]
    ) -> tuple[list[ComponentResult], str]:
        """Singly and in groups; if nothing is non-negotiable alone, all components at once before saying so."""
        if spectrum.pca.k == 0:
            return [], "this block's output does not vary over the answers: no component to test"
        thresholds, seed = self.contract.thresholds, self.settings.seed
        components = measure.classify_components(scorer, spectrum, order, thresholds, self.settings.components, seed)
        if any(_proven(c) for c in components):
            return components, ""
        together = measure.classify_together(scorer, spectrum, order, thresholds, seed)
        if _proven(together[0]):
            return (
                together,
                "no component is non-negotiable alone, all together are: the capability is spread over them",
            )
        return components, (
            f"no component is proven non-negotiable: {len(components)} tested singly and in groups, and all at once, on "
            f"up to {len(order)} samples"
        )

    def _perturb(self, scorer: Scorer, chosen: Sequence[Site], order: Sequence[int], findings: _Findings) -> None:
        seed = self.settings.seed
        some = order[:64]  # a table for people, whose intervals say how little 64 samples know
        for site in chosen:
            self.say(f"{site.name}: heads, channels, noise, low rank")
            findings.heads += measure.silence_heads(scorer, site, some, seed)
            findings.perturbations += measure.ablate(scorer, site, some, seed)
            findings.perturbations += perturbed_weights(scorer, site, some, seed)
        if findings.heads and (reason := missing_attention(self.teacher, self.metric, scorer.samples[order[0]])):
            findings.notes.append(f"no attention summaries will be collected: {reason}")
        self.say("prompts and decoding")
        findings.perturbations += perturbed_prompts(scorer, some, seed)
        findings.perturbations += perturbed_decoding(scorer, some, seed)

    def _profile(
        self, scorer: Scorer, pilot: dict[str, float], verify: Sequence[int], found: _Findings, seconds: float
    ) -> CapabilityProfile:
        outputs = [
            VerifyOutput(
                scorer.samples[i].id,
                scorer.samples[i].digest,
                scorer.baseline.outputs[i],
                float(scorer.baseline.scores[i]),
            )
            for i in verify
        ]
        return CapabilityProfile(
            teacher=self.teacher.source.teacher_id or self.teacher.source.path.name,
            weights_hash=weights_hash(self.teacher),
            capability=self.metric.name,
            metric=self.metric.metric,
            direction=self.metric.direction,
            baseline_score=scorer.value(scorer.baseline.scores, range(len(scorer.samples))),
            n=len(scorer.samples),
            seed=self.settings.seed,
            seconds=round(seconds, 3),
            blocks=tuple(found.blocks),
            heads=tuple(found.heads),
            perturbations=tuple(found.perturbations),
            pilot=pilot,
            verify_outputs=tuple(outputs),
            reconstruction=tuple(found.reconstruction),
            tokenizer=measure.tokenizer_facts(self.teacher.processor),
            notes=tuple(found.notes),
        )


def _proven(component: ComponentResult) -> bool:
    """Whether the whole interval says non-negotiable; caution alone is no proof."""
    return component.cls is ComponentClass.NON_NEGOTIABLE and not component.undecided


def weights_hash(teacher: Teacher) -> str:
    """SHA-256 over the names, shapes, types and bytes of all tensors: the identity of a teacher's weights."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(teacher.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        # A view of bytes needs a dimension, which a counter (BatchNorm's) does not have.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
