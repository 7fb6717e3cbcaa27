"""A training of seconds: a one-block student learns to map letters by a table, held to made-up teacher coordinates.

As a script, `tiny_job.py FOLDER KILLS SEED KIND`, it trains once undisturbed and once killed so many times; KIND is alone,
or joint: two adapters and the backbone together.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from nexus_core.distill.batches import Batches, collate
from nexus_core.distill.job import Job
from nexus_core.distill.joint import JointBatches, JointObjective, JointValidation
from nexus_core.distill.objective import DistillObjective
from nexus_core.distill.retention import Validation
from nexus_core.distill.settings import PhaseSettings, read_teaching
from nexus_core.distill.spaces import AnchorSpace
from nexus_core.distill.targets import AnchorTarget, SparseTargets, TrainingRow
from nexus_core.distill.trainer import train
from nexus_core.student.adapter import AnchoredBottleneck
from nexus_core.student.arch import AdapterArch, RouterArch, Site, StudentArch
from nexus_core.student.model import NexusForCausalLM
from nexus_core.types import CapabilityMetric, Contract, Direction, Sample, Split, Thresholds

LETTERS, END, VOCABULARY = 16, 17, 20
BLOCK, RANK = 0, 3
TABLE = np.random.default_rng(0).permutation(LETTERS)
COORDINATES = np.random.default_rng(1).normal(size=(VOCABULARY, RANK)).astype(np.float32)
SPACE = AnchorSpace(BLOCK, "teacher.0", (0, 1, 2), np.ones(RANK), float(RANK), np.zeros(RANK), 0.01)


def build(plan):
    return AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)


def new_student(capabilities=("letters", "other")):
    backbone = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,  # logits of a frozen random head need room
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": END,
    }
    adapters = tuple(
        AdapterArch(
            name, "text", "t", (Site(BLOCK, RANK, "teacher.0"),), 8, ("q_proj", "v_proj", "down_proj", "up_proj")
        )
        for name in capabilities
    )
    router = RouterArch(tuple(capabilities), 8, 4, 1)
    arch = StudentArch(1, "tiny", 42, backbone, "random", adapters, (), router, ())
    torch.manual_seed(42)
    return NexusForCausalLM.from_backbone(LlamaForCausalLM(LlamaConfig(**backbone)), arch, build)


def new_row(rng, table=TABLE):
    """A letter, a mark that may be repeated, and what the table makes of the letter."""
    letter = rng.integers(0, LETTERS)
    answer = np.array([table[letter], END], np.int32)
    kl = SparseTargets.none(len(answer))
    anchor = AnchorTarget(COORDINATES[answer], np.ones(len(answer), np.bool_))
    prompt = np.array([letter, *[18] * rng.integers(1, 3)], np.int32)
    return TrainingRow(str(rng.integers(1 << 40)), prompt, answer, kl, kl.entropy(), {BLOCK: anchor})


def new_rows(n, seed, table=TABLE):
    rng = np.random.default_rng(seed)
    return [new_row(rng, table) for _ in range(n)]


def settings(steps=60, **recovery):
    tiny = read_teaching("tiny")
    phase = PhaseSettings("adapters", False, steps, 4e-2, 0.0, 0, 5, 1.0)
    return replace(
        tiny,
        precision="fp32",
        accumulate=1,
        phases=(phase,),
        loss=replace(
            tiny.loss, alpha_hidden=1.0, alpha_floor=0.2, anchor_scale=1.0, beta_attention=0.0, beta_floor=0.0
        ),
        recovery=replace(tiny.recovery, **{"settle": 5, "heal_after": 5, "check_every": 0, **recovery}),
        retention=replace(tiny.retention, first=0.4, every=20, screen=16, full=32),
        journal=replace(tiny.journal, checkpoint_every=10),
    )


def new_job(folder: Path, student=None, **fields) -> Job:
    found = fields.pop("settings", None) or settings()
    given = {
        "student": student or new_student(),
        "capability": "letters",
        "batches": Batches(new_rows(512, 3), seed=42, batch_size=16),
        "objective": DistillObjective(found, [SPACE]),
        "settings": found,
        "checkpoints": folder / "checkpoints",
        "journal": folder / "journal",
        "held": [collate(new_rows(32, 4))],
    }
    return Job(**{**given, **fields})


TABLES = {"letters": TABLE, "other": TABLE[::-1]}


def joint_job(folder: Path, steps=30, rounds=1, **fields) -> Job:
    """Two adapters and the backbone at once; a third adapter is the student's too, and nobody's business."""
    joint = PhaseSettings("joint", True, steps, 1e-2, 5e-3, -1, 5, 1.0)
    found = replace(settings(), phases=(joint,), accumulate=rounds * len(TABLES))
    student = new_student((*TABLES, "third"))
    validations = {
        name: Validation(Letters(table), contract(), 1.0, Reader(student, name)) for name, table in TABLES.items()
    }
    given = {
        "student": student,
        "capability": "joint",
        "together": tuple(TABLES),
        "settings": found,
        "batches": JointBatches(
            {name: Batches(new_rows(128, 3, table), seed=42, batch_size=16) for name, table in TABLES.items()}
        ),
        "objective": JointObjective({name: DistillObjective(found, [SPACE]) for name in TABLES}, found.accumulate),
        "held": [replace(collate(new_rows(16, 4, table)), capability=name) for name, table in TABLES.items()],
        "validation": JointValidation(validations),
    }
    return new_job(folder, **{**given, **fields})


def held_out_loss(student, capability="letters") -> float:
    """Cross-entropy on rows that no training sees."""
    batch = collate(new_rows(128, 5, TABLES[capability]))
    with torch.no_grad(), student.using(capability):
        logits = student(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.answer]
    return float(torch.nn.functional.cross_entropy(logits, batch.labels))


class Letters(CapabilityMetric):
    """Right when the first answered token is the table's. All letters in turn, so that a score is the same on each n."""

    name, metric, direction = "letters", "exact", Direction.HIGHER

    def __init__(self, table=TABLE):
        self.table = table

    def samples(self, request):
        assert request.split is Split.PROFILE
        for i in range(10**6 if request.n is None else request.n):
            letter, marks = i % LETTERS, 1 + i // LETTERS
            yield Sample(str(i), f"{letter} {marks}", str(self.table[letter]))

    def score(self, sample, output):
        return float(output == sample.target)


class Reader:
    """Answers with the student's most likely token. `asked` counts samples."""

    def __init__(self, student, capability="letters"):
        self.student, self.capability, self.asked = student, capability, 0

    def generate(self, samples, options):
        assert not self.student.training
        self.asked += len(samples)
        answers = []
        for sample in samples:
            letter, marks = map(int, sample.prompt.split())
            ids = torch.tensor([[letter, *[18] * min(marks, 2)]])
            with self.student.using(self.capability):
                answers.append(str(int(self.student(input_ids=ids).logits[0, -1].argmax())))
        return answers


def contract(retain=0.97):
    return Contract("letters", "own", "exact", Direction.HIGHER, retain, None, 1, 8, Thresholds(0.1, 0.05))


class Poisoned:
    """Batches whose anchors are `value` at some positions: NaN, infinite, or absurdly far away."""

    def __init__(self, batches, values):
        self.batches, self.values = batches, values

    def at(self, position):
        batch = self.batches.at(position)
        if position not in self.values:
            return batch
        wrong = {b: (torch.full_like(v, self.values[position]), has) for b, (v, has) in batch.anchors.items()}
        return replace(batch, anchors=wrong)


class Slow:
    """Batches that take their time, so that a kill finds the training somewhere in its middle."""

    def __init__(self, batches, seconds):
        self.batches, self.seconds = batches, seconds

    def at(self, position):
        time.sleep(self.seconds)
        return self.batches.at(position)


def alone(folder: Path) -> Job:
    job = new_job(folder, settings=settings(40, check_every=15))
    return replace(job, batches=Poisoned(job.batches, {17: float("nan"), 33: 1e4}))


def joint(folder: Path) -> Job:
    return joint_job(folder, workers=2)


KINDS = {"alone": alone, "joint": joint}


def run(folder: Path, kind: str, pause: float = 0.0) -> None:
    """The training that is killed: its outcome goes to outcome.json, its weights to weights.safetensors."""
    job = KINDS[kind](folder)
    outcome = train(replace(job, batches=Slow(job.batches, pause)))
    (folder / "outcome.json").write_text(json.dumps(asdict(outcome)))
    save_file(dict(job.student.state_dict()), folder / "weights.safetensors")


def main(folder: str, kills: str, seed: str, kind: str) -> None:
    """Train once undisturbed, once with SIGKILL at random moments; prints how many kills found it alive.

    Forked from one process, because starting Python and torch for each takes longer than the training. The undisturbed
    training is in a process of its own too: what it leaves in memory (threads) would be gone in a fork of it.
    """
    random = np.random.default_rng(int(seed))
    undisturbed, killed = Path(folder) / "undisturbed", Path(folder) / "killed"
    alive, first = 0, True
    while first or not (killed / "outcome.json").exists():
        child = os.fork()
        if child == 0:
            run(undisturbed if first else killed, kind, pause=0.0 if first else 0.005)
            os._exit(0)
        if not first and alive < int(kills):
            time.sleep(random.uniform(0.05, 0.45))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            sys.exit("the training failed")
        alive += os.WIFSIGNALED(status)
        first = False
    print(alive)


if __name__ == "__main__":
    main(*sys.argv[1:])
