"""What a run was asked for, as one frozen value: the flags of all its starts, and defaults for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.errors import StateError, UsageError

if TYPE_CHECKING:
    from nexus_core.distill.routing import RouterSettings
    from nexus_core.distill.settings import TeachSettings
    from nexus_core.pipeline.ladder import Rung

RUN = "runs/default"
PRESET, DEVICE, SEED, SAMPLE_SIZE = "tiny", "cpu", 42, 500
IDLE = ("epochs", "packing", "max_seq_length", "embedding_model")  # a state may hold them, and nothing acts on them


@dataclass(frozen=True, slots=True)
class RunOptions:
    """`plugins` and `teachers` None: all that are here. `out` is where the bundle goes. A rate None is the preset's."""

    run: Path
    out: Path
    plugins: tuple[str, ...] | None = None
    teachers: tuple[str, ...] | None = None
    datasets: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    sample_size: int = SAMPLE_SIZE
    preset: str = PRESET
    backbone: str | None = None
    tokenizer: Path | None = None
    quantization: str | None = None
    device: str = DEVICE
    seed: int = SEED
    lr: float | None = None
    router_lr: float | None = None
    router_epochs: int | None = None

    def teaching(self, rung: Rung) -> TeachSettings:
        """The preset's, with the rung's share of its steps, `lr` as the rate of the first phase's adapters, and no more
        answers in an evaluation than the gate asks."""
        from nexus_core.distill.settings import read_teaching

        found = read_teaching(self.preset)
        first = next((phase.adapter_rate for phase in found.phases if phase.steps), 1.0)
        scale = 1.0 if self.lr is None else self.lr / first
        phases = tuple(
            replace(
                phase,
                steps=round(phase.steps * rung.steps) or min(phase.steps, 1),
                adapter_rate=phase.adapter_rate * scale,
                backbone_rate=phase.backbone_rate * scale,
            )
            for phase in found.phases
        )
        full = min(found.retention.full, rung.verify)
        answers = replace(found.retention, full=full, screen=min(found.retention.screen, full))
        return replace(found, phases=phases, retention=answers)

    def routing(self) -> RouterSettings:
        """The router's own, where nothing else was asked for."""
        from nexus_core.distill import routing

        own = routing.RouterSettings()
        return replace(
            own,
            router_lr=own.router_lr if self.router_lr is None else self.router_lr,
            router_epochs=own.router_epochs if self.router_epochs is None else self.router_epochs,
        )


def options_from(flags: Mapping[str, Any]) -> RunOptions:
    """From the flags of the state."""
    run = Path(flags.get("run", RUN))
    out = Path(flags["out"]) if "out" in flags else run / "nexus_bundle_v1"
    simple = ("sample_size", "preset", "backbone", "quantization", "device", "seed", "lr", "router_lr", "router_epochs")
    return RunOptions(
        run=run,
        out=out,
        plugins=_names(flags, "plugins"),
        teachers=_names(flags, "teachers"),
        datasets={capability: _one(capability, paths) for capability, paths in flags.get("datasets", {}).items()},
        layers=_names(flags, "layers") or (),
        tokenizer=Path(flags["tokenizer"]) if "tokenizer" in flags else None,
        **{name: flags[name] for name in simple if name in flags},
    )


def idle_flags(flags: Mapping[str, Any]) -> list[str]:
    """What stands in the state and decides nothing."""
    return [name for name in IDLE if name in flags]


def parse_datasets(given: tuple[str, ...]) -> dict[str, list[str]]:
    """`capability=path` as the state holds it."""
    found: dict[str, list[str]] = {}
    for text in given:
        capability, equals, path = text.partition("=")
        if not (capability and equals and path):
            raise UsageError(f"--datasets {text}: expected CAPABILITY=PATH", "for example --datasets math=data/gsm8k")
        found[capability.replace("-", "_")] = [path]
    return found


def _names(flags: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    return None if flags.get(name) is None else tuple(flags[name])


def _one(capability: str, paths: list[str]) -> str:
    if len(paths) != 1:
        raise StateError(
            f"datasets.{capability} names {len(paths)} places", "name one: a directory may hold several files"
        )
    return paths[0]
