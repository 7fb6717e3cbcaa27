"""A study of seconds: a one-block student learns two tables of letters from a made-up teacher, or from the tables.

As a script, `tiny_study.py FOLDER KILLS SEED`, it does the study once undisturbed and once killed so many times.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nexus_core.distill.attention_targets import MappedHead
from nexus_core.distill.material import Gatherer, Material
from nexus_core.distill.settings import PhaseSettings, read_teaching
from nexus_core.distill.spaces import AnchorSpace
from nexus_core.distill.targets import AnchorTarget, SparseTargets, TrainingRow
from nexus_core.distill.vocabulary import Vocabulary, read_vocabulary
from nexus_core.student.arch import AdapterArch, RouterArch, Site, StudentArch
from nexus_core.student.files import Student
from nexus_core.student.model import NexusForCausalLM
from nexus_core.study.arms import read_arms
from nexus_core.study.study import Study, StudyOrder, Subject, TeacherOf
from nexus_core.types import CapabilityMetric, Contract, Direction, GenerateOptions, Sample, Split, Thresholds

LETTERS = "abcdefghijklmnop"
TOKENS = ["<pad>", "<end>", "Ġ", *LETTERS]  # byte-level: the third is a space
BLOCK, RANK, SEED = 0, 3, 7
TABLES = {
    name: dict(zip(LETTERS, np.random.default_rng(i).permutation(list(LETTERS)), strict=True))
    for i, name in enumerate(["letters", "turns"])
}
COORDINATES = np.random.default_rng(9).normal(size=(len(TOKENS), RANK)).astype(np.float32)
SPACE = AnchorSpace(BLOCK, "teacher.0", (0, 1, 2), np.ones(RANK), float(RANK), np.zeros(RANK), 0.01)
HEADS = {BLOCK: (MappedHead(BLOCK, 2, "teacher.0", 0),)}


class Table(CapabilityMetric):
    """Two letters: what does the table make of the first? The second decides the split; the seed, the order."""

    metric, direction = "exact", Direction.HIGHER
    options = GenerateOptions(max_new_tokens=3, batch_size=16)

    def __init__(self, name: str) -> None:
        self.name = name

    def samples(self, request):
        seconds = {Split.TRAIN: LETTERS[:12], Split.PROFILE: LETTERS[12:14], Split.VERIFY: LETTERS[14:]}[request.split]
        prompts = [f"{first} {second}" for first in LETTERS for second in seconds]
        order = np.random.default_rng(request.seed).permutation(len(prompts))
        for i in order[: request.n]:
            yield Sample(str(i), prompts[i], str(TABLES[self.name][prompts[i][0]]))

    def score(self, sample, output):
        return float(output == sample.target)


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(TOKENS)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", model_max_length=16)


def arch() -> StudentArch:
    backbone = {
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
    targets = ("q_proj", "v_proj", "down_proj", "up_proj")
    adapters = tuple(
        AdapterArch(name, "text", "made-up", (Site(BLOCK, RANK, "teacher.0"),), 4, targets) for name in TABLES
    )
    return StudentArch(1, "tiny", 42, backbone, "random", adapters, (), RouterArch(tuple(TABLES), 8, 4, 1), ())


def build(planned: StudentArch) -> Student:
    return Student(NexusForCausalLM.from_backbone(None, planned), tokenizer(), planned)


def teaching(**changes):
    """Ten steps together, then four for each adapter."""
    tiny = read_teaching("tiny")
    joint = PhaseSettings("joint", True, 10, 4e-2, 1e-2, -1, 2, 1.0)
    alone = PhaseSettings("adapters", False, 4, 4e-2, 0.0, 0, 0, 1.0)
    return replace(
        tiny,
        precision="fp32",
        accumulate=1,
        data=replace(tiny.data, batch_size=0, batch_tokens=48),
        phases=(joint, alone),
        recovery=replace(tiny.recovery, settle=5, check_every=6),
        journal=replace(tiny.journal, checkpoint_every=5),
        **changes,
    )


def row(sample: Sample, words: Vocabulary) -> TrainingRow:
    """The teacher is long-winded where the second letter is early: its answers do not have the length of the right ones."""
    text = sample.target * (2 if sample.prompt[-1] in "abc" else 1)
    prompt, answer = (np.array(ids, np.int32) for ids in words.encode([sample.prompt, text]))
    answer = np.append(answer, np.int32(words.end))
    n = len(answer)
    log_probs, rest = np.full((n, 1), np.log(0.9), np.float32), np.full(n, np.log(0.1), np.float32)
    kl = SparseTargets(answer[:, None], log_probs, rest, np.ones(n, np.bool_))
    look = np.tile(np.array([0, 1, 0.9], np.float32), (n, 1))
    return TrainingRow(
        digest=sample.digest,
        prompt_ids=prompt,
        answer_ids=answer,
        kl=kl,
        entropy=kl.entropy(),
        anchors={BLOCK: AnchorTarget(COORDINATES[answer], np.ones(n, np.bool_))},
        attention={BLOCK: AnchorTarget(look, np.ones(n, np.bool_))},
    )


def material(name: str, words: Vocabulary) -> Material:
    """Rows in an order of their own, one of them twice, as a grown cache of signals has them."""
    metric = Table(name)
    samples = list(metric.samples(request(Split.TRAIN)))
    rows = [row(sample, words) for sample in reversed(samples)]
    rows.insert(5, rows[0])
    contract = Contract(name, "own", "exact", Direction.HIGHER, 0.97, None, 1, 8, Thresholds(0.1, 0.05))
    return Material(arch().adapter(name), contract, metric, 1.0, (SPACE,), HEADS, rows[:-16], rows[-16:])


def request(split: Split):
    from nexus_core.types import SampleRequest

    return SampleRequest(split, None, SEED)


class Knows:
    """A teacher that is right about all letters but the last two."""

    def __init__(self, name: str) -> None:
        self.name = name

    def generate(self, samples, options):
        return ["?" if s.prompt[0] in LETTERS[-2:] else str(TABLES[self.name][s.prompt[0]]) for s in samples]


def subject(**fields) -> Subject:
    words = read_vocabulary(tokenizer())
    materials = {name: material(name, words) for name in TABLES}
    gatherer = Gatherer(Path(), None, None, read_teaching("tiny").data)
    given = {
        "arch": arch(),
        "preset": teaching(),
        "build": build,
        "materials": materials,
        "gold": lambda: {n: gatherer.without_teacher(m, arch(), words, SEED) for n, m in materials.items()},
        "teachers": {name: TeacherOf("made-up", "0" * 64, lambda name=name: Knows(name)) for name in TABLES},
    }
    return Subject(**{**given, **fields})


def study(folder: Path, arms=("no_teacher", "full"), said=None, subject=subject, **order) -> Study:
    known = read_arms()
    asked = StudyOrder(**{"run": folder, "arms": known.chosen(arms), "seeds": 2, "samples": 32, "workers": 1, **order})
    return Study(asked, subject() if callable(subject) else subject, known, (said if said is not None else []).append)


def main(folder: str, kills: str, seed: str) -> None:
    """Once undisturbed, once with SIGKILL at random moments; prints how many kills found it alive.

    Forked from one process, because starting Python and torch for each takes longer than the study.
    """
    random = np.random.default_rng(int(seed))
    undisturbed, killed, mark = Path(folder) / "undisturbed", Path(folder) / "killed", Path(folder) / "done"
    started = time.perf_counter()
    study(undisturbed).run()
    whole, alive = time.perf_counter() - started, 0
    while not mark.exists():
        child = os.fork()
        if child == 0:
            study(killed).run()
            mark.touch()
            os._exit(0)
        if alive < int(kills):
            time.sleep(random.uniform(0.05, 0.6) * whole)
            os.kill(child, signal.SIGKILL)
        alive += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    print(alive)


if __name__ == "__main__":
    main(*sys.argv[1:])
