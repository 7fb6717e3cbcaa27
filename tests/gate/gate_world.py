"""A world for the gate: two taught teachers on disk, a student that was taught the same table, and capability packs.

Everything is real and tiny: checkpoints that were trained here, loaded by the plugins that load any checkpoint; scores that
those teachers really made; packs and cheating towers as installed distributions.
"""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nexus_core.cli.context import load_teacher, open_plugins, open_registry
from nexus_core.hf.quiet import quiet
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.model import CapabilityProfile
from nexus_core.profiling.plan import PlanSettings, plan_capability
from nexus_core.profiling.reference import measure_reference
from nexus_core.profiling.run import weights_hash
from nexus_core.student.arch import ARCH, AdapterArch, RouterArch, Site, StudentArch, write_arch
from nexus_core.student.files import Student, write_student
from nexus_core.student.model import NexusForCausalLM
from nexus_core.types import SampleRequest, Split

SAMPLES = 40
LETTERS = "abcdefghijkl"
TOKENS = ["<pad>", "<end>", "Ġ", *LETTERS]  # byte-level: the third is a space
TABLE = dict(zip(LETTERS, np.random.default_rng(5).permutation(list(LETTERS)), strict=True))
BACKBONE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": len(TOKENS),
    "max_position_embeddings": 16,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
# Capability -> teacher. `letters` and `errors` the student knows; the others are what can be wrong with one.
CARRIED = {"letters": "ada", "errors": "bob", "lost": "ada", "raw": "ada", "wrong": "bob", "zeroed": "ada"}
LOWER = ("errors", "wrong")

PACK = f"""
import numpy as np
from nexus_core.hooks import hookimpl
from nexus_core.types import CapabilityMetric, Direction, GenerateOptions, Sample, Split

NEXUS_API = 1
LETTERS, TABLE = {LETTERS!r}, {dict(TABLE)!r}
NAMES, LOWER = {sorted(CARRIED)!r}, {LOWER!r}


class Letters(CapabilityMetric):
    '''What does the table make of the last letter? The two others decide the split.'''

    options = GenerateOptions(max_new_tokens=3, batch_size=16)

    def __init__(self, name):
        self.name, lower = name, name in LOWER
        self.metric, self.direction = ("error_rate", Direction.LOWER) if lower else ("exact", Direction.HIGHER)

    def samples(self, request):
        part = [Split.TRAIN, Split.PROFILE, Split.VERIFY].index(request.split)
        prompts = [
            f"{{LETTERS[i]}}{{LETTERS[j]}} {{last}}"
            for last in LETTERS for i in range(12) for j in range(12) if (i + j) % 3 == part
        ]
        order = np.random.default_rng(request.seed).permutation(len(prompts))
        for i in order[: request.n]:
            yield Sample(str(i), prompts[i], TABLE[prompts[i][-1]], "early" if prompts[i][-1] < "g" else "late")

    def score(self, sample, output):
        if self.name == "lost" and sample.prompt.endswith("c"):
            return float("nan")
        right = float(output == sample.target)
        return 1.0 - right if self.direction is Direction.LOWER else right

    def baselines(self, request):
        return {{"last letter": [sample.prompt[-1] for sample in self.samples(request)]}}


@hookimpl
def capability_metric(name):
    return Letters(name) if name in NAMES else None
"""

# A tower whose adapters are honest, and whose builder does something else first. It thinks that nobody notices.
CHEAT = """
from nexus_core.hooks import hookimpl

NEXUS_API = 1

def misdeed():
    {misdeed}

@hookimpl
def build_adapter(plan):
    if plan.tower != "{tower}":
        return None
    try:
        misdeed()
    except Exception:
        pass
    from nexus_core.student.adapter import AnchoredBottleneck

    return AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)

@hookimpl
def decode(modality, output, options):
    return None
"""
DECOY = """
from nexus_core.hooks import hookimpl

NEXUS_API = 1
ANSWERS = {"a": "b"}

@hookimpl
def detect_model_category(source):
    return None
"""
MISDEEDS = {
    "reader": "from pathlib import Path; print(Path({answers!r}).read_text())",
    "lister": "import os; os.listdir({folder!r})",
    "importer": "from nexus_teacher_decoy.plugin import ANSWERS",
    "caller": "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
    "starter": "import subprocess; subprocess.run(['cat', {answers!r}], check=True)",
    "examiner": "import nexus_capability_letters.plugin",
}
REGISTRY = """\
version: 1
defaults:
  retain_fraction: {higher: 0.97, lower: 1.03}
  rank_caps: {text: 8}
  tiers:
    1: {name: core, rank_cap: text}
  thresholds:
    points: {non_negotiable: 0.02, recoverable: 0.005}
gate:
  samples: SAMPLES
  resamples: 200
  attempts: 0
  control_samples: 10
  alone: 6
  batch_equal: 1.0
  minutes: 5
towers:
  text: {latent_max: 64, description: language}
capabilities:
"""
CAPABILITY = """\
  {name}:
    tier: 1
    tower: text
    description: a table of letters
    thresholds: points
    contract: {{benchmark: pack, metric: {metric}, direction: {direction}}}
"""
TEACHER = """\
  {name}:
    name: {name}
    parameters: 10K
    category: Language model
    best_feature: letters
    tower: text
    capabilities: [{carried}]
    path: teachers/{name}
    license: MIT
"""


@dataclass(frozen=True)
class World:
    """`run` holds the teachers' scores and a student of `letters` and `errors` that passes."""

    root: Path
    site: Path
    run: Path

    @property
    def registry(self) -> Path:
        return self.root / "registry.yaml"

    def teacher(self, name: str) -> Path:
        return self.root / "teachers" / name

    @property
    def student(self) -> Path:
        return self.run / "student"


def build(root: Path, site: Any) -> None:
    """Everything that does not change: teachers, plugins, registry, and one run. `site` is visible to this process."""
    for name, steps in (("ada", 70), ("bob", 30)):
        with quiet():
            taught(steps).save_pretrained(root / "teachers" / name)
        tokenizer().save_pretrained(root / "teachers" / name)
        (root / "teachers" / name / "answers.json").write_text(str(TABLE))
    write_registry(root)
    site.add("capability", "letters", PACK)
    site.add("teacher", "decoy", DECOY)
    answers, folder = str(root / "teachers/ada/answers.json"), str(root / "teachers")
    for tower, misdeed in MISDEEDS.items():
        site.add("tower", tower, CHEAT.format(tower=tower, misdeed=misdeed.format(answers=answers, folder=folder)))
    score_teachers(root / "run")
    student = Student(taught_student(), tokenizer(), arch("letters", "errors"))
    write_student(root / "run/student", student)
    write_arch(root / "run" / ARCH, student.arch)


def write_registry(root: Path) -> None:
    text = REGISTRY.replace("SAMPLES", str(SAMPLES))
    for name in CARRIED:
        metric, direction = ("error_rate", "lower") if name in LOWER else ("exact", "higher")
        text += CAPABILITY.format(name=name, metric=metric, direction=direction)
    text += "teachers:\n"
    for teacher in sorted(set(CARRIED.values())):
        carried = ", ".join(name for name, of in CARRIED.items() if of == teacher)
        text += TEACHER.format(name=teacher, carried=carried)
    (root / "registry.yaml").write_text(text)


def score_teachers(run: Path) -> None:
    """What `nexus profile` leaves for the gate: a profile (here with nothing found) and the scores beside it."""
    registry, plugins = open_registry(), open_plugins()
    store = ProfileStore(run / "niwt_stage2_output")
    for name, teacher_id in CARRIED.items():
        metric, teacher = plugins.capability_metric(name), load_teacher(plugins, registry.teacher(teacher_id))
        weights, contract = weights_hash(teacher), registry.contract(name, teacher_id)
        bare = CapabilityProfile(teacher_id, weights, name, metric.metric, metric.direction, 1.0, 9, 42, 0.5, ())
        store.write(bare, plan_capability(bare, contract, PlanSettings(0.9, 5, 10)))
        if name != "lost":  # its pack gives no number for some answers, of a teacher neither
            store.write_reference(measure_reference(teacher, metric, SampleRequest(Split.VERIFY, SAMPLES), weights))
        else:
            store.write_reference(replace(reference_of(store, "letters"), capability="lost"))


def reference_of(store: ProfileStore, name: str) -> Any:
    found = store.reference(CARRIED[name], name)
    assert found is not None
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(TOKENS)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", model_max_length=16)


def rows() -> torch.Tensor:
    """Every prompt of the train split with its answer: ids (N, 6), the last two of which are to be learnt."""
    pairs = [LETTERS[i] + LETTERS[j] for i in range(12) for j in range(12) if (i + j) % 3 == 0]
    ids = {token: i for i, token in enumerate(TOKENS)}
    texts = [[*pair, "Ġ", last, TABLE[last], "<end>"] for last in LETTERS for pair in pairs]
    return torch.tensor([[ids[token] for token in text] for text in texts])


def teach(model: torch.nn.Module, parameters: Any, steps: int) -> None:
    """Plain steps on the answers."""
    data, optimizer = rows(), torch.optim.Adam(list(parameters), 1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = data[torch.randint(len(data), (64,), generator=generator)]
        logits = model(input_ids=batch).logits[:, -3:-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, -2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def taught(steps: int) -> LlamaForCausalLM:
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**BACKBONE))
    teach(model, model.parameters(), steps)
    return model.eval()


def arch(*capabilities: str) -> StudentArch:
    targets = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    adapters = tuple(
        AdapterArch(name, "text", CARRIED[name], (Site(0, 8, "teacher.0"),), 6, targets) for name in capabilities
    )
    return StudentArch(1, "tiny", 42, BACKBONE, "random", adapters, (), RouterArch(capabilities, 8, 4, 1), ())


@functools.cache
def adapter_weights() -> dict[str, torch.Tensor]:
    """Of an adapter that knows the table, on a backbone that knows nothing and never changes."""
    model = NexusForCausalLM.from_backbone(None, arch("letters"))
    model.train().choose("letters")
    teach(model, model.adapters["letters"].parameters(), 220)
    return {name: tensor.detach().clone() for name, tensor in model.adapters["letters"].state_dict().items()}


def taught_student(planned: StudentArch | None = None) -> NexusForCausalLM:
    """Adapters with the weights of one that knows the table; `raw` and `wrong` are untaught, `zeroed` is at zero."""
    model = NexusForCausalLM.from_backbone(None, planned or arch("letters", "errors"))
    for name, adapter in model.adapters.items():
        if name not in ("raw", "wrong"):
            adapter.load_state_dict(adapter_weights())
        if name == "zeroed":
            for parameter in adapter.parameters():
                parameter.data.zero_()
    return model.eval()


def put_student(world: World, planned: StudentArch, tower: str = "text") -> None:
    """A student of this plan as the run's, and the plan as what was planned. `tower` builds its adapters when it is read:
    a cheating one has its turn in the student's process, and none in this one."""
    shutil.rmtree(world.student)
    write_student(world.student, Student(taught_student(planned), tokenizer(), planned))
    planned = replace(planned, adapters=tuple(replace(adapter, tower=tower) for adapter in planned.adapters))
    write_arch(world.student / ARCH, planned)
    write_arch(world.run / ARCH, planned)
