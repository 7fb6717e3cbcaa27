"""A world for `nexus run`: two teachers that know a table of letters, a backbone that knows nothing, one pack each.

Everything is real and tiny, and small numbers stand in for the preset's and the ladder's, so that a run takes seconds.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaForCausalLM

from nexus_core.architect.presets import load_presets
from nexus_core.distill.routing import RouterSettings

CAPABILITIES = {"letters": "ada", "errors": "bob"}
REGISTRY = """\
version: 1
defaults:
  retain_fraction: {higher: 0.97, lower: 1.03}
  rank_caps: {text: 8}
  tiers:
    1: {name: core, rank_cap: text}
  thresholds:
    points: {non_negotiable: 0.02, recoverable: 0.005}
profiling:
  samples: 24
  sample_sizes: {debug: 50, standard: 500, production: 5000}
  pilot_samples: 12
  verify_samples: 12
  layers: 1
  components: {most: 8, middle: 8, tested: 3}
  attention_heads: 1
  drill: 1
  variance_fraction: 0.97
  reconstruction_max_drop: 0.01
  overlap_heavy: 0.8
  loss_weight: {least: 5, most: 10}
gate:
  samples: 40
  resamples: 200
  attempts: 1
  control_samples: 10
  alone: 6
  batch_equal: 0.9
  minutes: 5
towers:
  text: {latent_max: 64, description: language}
capabilities:
  letters:
    tier: 1
    tower: text
    description: a table of letters
    thresholds: points
    contract: {benchmark: pack, metric: exact, direction: higher}
  errors:
    tier: 1
    tower: text
    description: the same table, by what goes wrong
    thresholds: points
    contract: {benchmark: pack, metric: error_rate, direction: lower, retain_fraction: 3.0}
teachers:
"""
TEACHER = """\
  {name}:
    name: {name}
    parameters: 10K
    category: Language model
    best_feature: letters
    tower: text
    {role}capabilities: [{carried}]
    path: {path}
    license: MIT
"""
PRESETS = """
version: 1
tower_latent_factor: 1.2
compare_weights_up_to: 1.0e+9
presets:
  tiny:
    description: as small as it goes
    backbone: {source: seed}
    adapters: {rank_most: 8, delta_targets: [self_attn.q_proj, mlp.down_proj], delta_rank: {least: 2, most: 4}}
    towers: {text: {thought_tokens: 0}}
    router: {buckets: 64, width: 2, most: 1}
    budget: {total: 60000}
"""
LADDER = """
rungs:
  debug: {samples: 50, profile: 24, held_back: 12, blocks: 3, signals: 160, characters: 100000, drill: 1.0, steps: 0.1,
    verify: 40, returns: 0, growths: 0, growth: 1.5}
  standard: {samples: 500, profile: 24, held_back: 12, blocks: 3, signals: 160, characters: 100000, drill: 1.0, steps: 1.0,
    verify: 40, returns: 1, growths: 1, growth: 1.5}
measured: {profile: 7.0e-9, signals: 3.5e-10, score: 5.0e-10, rows: 6.0e-6, step: 0.01, step_parameters: 10000.0,
  ask: 1.0e-9, fixed: 1.0, memory_mb: 500, bytes_per_character: 60}
"""


@dataclass(frozen=True)
class World:
    """`here` is the working directory of its runs."""

    root: Path
    site: Path
    here: Path

    @property
    def registry(self) -> Path:
        return self.root / "registry.yaml"

    @property
    def run(self) -> Path:
        return self.here / "runs/default"

    @property
    def bundle(self) -> Path:
        return self.run / "nexus_bundle_v1"

    def state(self) -> dict[str, Any]:
        return json.loads((self.here / ".pipeline_state.json").read_text())

    def did(self) -> list[str]:
        """The units that the last start did, and did not merely find."""
        events = [json.loads(line) for line in (self.run / "events.jsonl").read_text().splitlines()]
        last = max(i for i, event in enumerate(events) if event["kind"] == "run_started")
        return [e["unit"] for e in events[last:] if e["kind"] == "unit_ended" and not e["reused"]]

    def warnings(self) -> list[str]:
        events = [json.loads(line) for line in (self.run / "events.jsonl").read_text().splitlines()]
        return [event["text"] for event in events if event["kind"] == "warning"]

    def hashes(self, name: str) -> dict[str, str]:
        """Of every file below a directory of the run."""
        top = self.run / name
        files = sorted(path for path in top.rglob("*") if path.is_file())
        return {f.relative_to(top).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def build(root: Path, site: Any, gate: Any) -> None:
    """Teachers, backbone, packs and registry. `gate` is tests/gate/gate_world.py."""
    from nexus_core.hf.quiet import quiet

    with quiet():
        gate.taught(120).save_pretrained(root / "teachers/ada")
        gate.taught(24).save_pretrained(root / "teachers/bob")
        seed = LlamaForCausalLM(gate.LlamaConfig(**{**gate.BACKBONE, "initializer_range": 0.1}))
        seed.save_pretrained(root / "teachers/seed")
    for name in ("ada", "bob", "seed"):
        gate.tokenizer().save_pretrained(root / "teachers" / name)
    write_registry(root)
    for name in CAPABILITIES:
        source = gate.PACK.replace(f"NAMES, LOWER = {sorted(gate.CARRIED)!r}", f"NAMES, LOWER = {[name]!r}")
        assert source != gate.PACK
        site.add("capability", name, source, package=f"nexus_run_{name}")  # other worlds have packs of these names


def write_registry(root: Path, changes: dict[str, str] | None = None) -> None:
    """`changes`: what is to be replaced in the text of the registry, and by what."""
    text = REGISTRY
    for teacher in sorted(set(CAPABILITIES.values())):
        carried = ", ".join(name for name, of in CAPABILITIES.items() if of == teacher)
        text += TEACHER.format(name=teacher, carried=carried, role="", path=f"teachers/{teacher}")
    text += TEACHER.format(name="seed", carried="", role="role: backbone\n    ", path="teachers/seed")
    text += TEACHER.format(name="far", carried="letters", role="", path="teachers/far")
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    (root / "registry.yaml").write_text(text)


@functools.cache
def teaching(steps: int) -> Any:
    """The preset tiny, for letters."""
    from nexus_core.distill.settings import PRESETS, PhaseSettings, teach_from

    found = teach_from(yaml.safe_load(PRESETS.read_text())["tiny"], "tiny")
    phases = (
        PhaseSettings("joint", True, steps, 1e-2, 1e-2, -1, 5, 1.0),
        PhaseSettings("adapters", False, max(1, steps // 2), 1e-2, 0.0, 0, 5, 1.0),
    )
    return replace(
        found,
        precision="fp32",
        data=replace(found.data, batch_size=48, batch_tokens=0, held=8, curriculum=0.0),
        accumulate=1,
        phases=phases,
        loss=replace(found.loss, alpha_hidden=0.1, alpha_floor=0.05, beta_attention=0.0, beta_floor=0.0),
        recovery=replace(found.recovery, settle=5, check_every=0, most_rollbacks=4, spike_factor=50.0),
        retention=replace(found.retention, first=0.3, every=20, screen=24, full=48, margin=0.0),
        journal=replace(found.journal, checkpoint_every=20),
    )


@contextmanager
def small_numbers(folder: Path, steps: int = 120) -> Iterator[None]:
    """Inside, the run reads these numbers instead of the preset's and the ladder's. `folder` is where files may be put."""
    from nexus_core.architect import presets
    from nexus_core.distill import routing, settings
    from nexus_core.pipeline import bench, ladder, plan
    from nexus_core.pipeline.stages import architect
    from nexus_core.pipeline.work import teach

    (folder / "presets.yaml").write_text(PRESETS)
    (folder / "ladder.yaml").write_text(LADDER)
    chosen = lambda path=None: load_presets(path or folder / "presets.yaml")  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        for module in (presets, bench, architect):
            patch.setattr(module, "load_presets", chosen)
        assert not hasattr(teach, "load_presets")
        patch.setattr(settings, "read_teaching", lambda preset: teaching(steps))
        patch.setattr(plan, "read_ladder", lambda: ladder.read_ladder(folder / "ladder.yaml"))
        few = {"train_prompts": 12, "held_out_prompts": 6, "negative_prompts": 20, "router_epochs": 1}
        patch.setattr(routing, "RouterSettings", lambda: RouterSettings(**few))
        patch.delenv("NEXUS_PLUGINS", raising=False)
        yield


def program() -> None:
    """`python run_world.py FOLDER STEPS ARGUMENTS`: nexus with small numbers, in a process of its own."""
    from nexus_core.cli.main import main

    folder, steps, *arguments = sys.argv[1:]
    with small_numbers(Path(folder), int(steps)):
        main(arguments)


def environment(world: World) -> dict[str, str]:
    """In which a process sees this world."""
    path = os.pathsep.join(filter(None, [str(world.site), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "NEXUS_REGISTRY": str(world.registry), "OMP_NUM_THREADS": "1"}


def copy_of(world: World, here: Path) -> World:
    """Another working directory with the same runs in it."""
    shutil.copytree(world.here, here)
    return World(world.root, world.site, here)


if __name__ == "__main__":
    program()
