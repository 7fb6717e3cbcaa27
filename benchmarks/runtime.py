"""What a consumer waits for: an adapter beside the plain backbone, a decision of the router, and a load from the disk.

    python benchmarks/runtime.py [--runs 15] [--tokens 64] [--only NAME]

Two students, with weights that are drawn (what they cost does not depend on what they learnt), stored in fp16: `tiny` has
the zoo's shape, `small` that of the preset of this name. An adapter has a bottleneck after three blocks and low-rank deltas
on every projection. Budgets, for `small`: an adapter costs at most 1.05 times the plain backbone per token at batch 1, a
decision at most 1000 microseconds for a prompt of 6000 characters, a load at most 1.5 times what reading, hashing and
parsing the same files takes. Medians of pairs that are taken in turns, in CPU time of one thread.

`tiny` is shown beside it and has no budget: half as wide as the backbone and after each of its three blocks, bottlenecks are
6 % of its arithmetic to begin with, and loading 4 MB is mostly what does not grow with them.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load as parse

from nexus import NexusModel
from nexus_core.architect.presets import load_presets
from nexus_core.bundle.manifest import OptionFacts, ResultFacts
from nexus_core.bundle.writer import BundleParts, CapabilityParts, write_files
from nexus_core.hf.tokenizer import load_tokenizer
from nexus_core.student.arch import AdapterArch, RouterArch, Site, StudentArch, TowerArch
from nexus_core.student.files import Student
from nexus_core.student.model import NexusForCausalLM
from nexus_core.student.router import SparseIntentRouter
from nexus_core.types import Contract, Direction, GenerateOptions, Thresholds

COST, MICROSECONDS, LOAD, BUDGETED = 1.05, 1000.0, 1.5, "small"
ZOO = Path(__file__).parents[1] / "plugins/teachers/zoo/src/nexus_teacher_zoo/weights/backbone"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CAPABILITIES = ("reasoning", "code", "tools", "long_context")
PROMPT = "Tom has 3 apples and buys 4 more. How many are there now? Think step by step."


@dataclass(frozen=True)
class Shape:
    """A student's sizes."""

    backbone: dict
    rank: int
    delta_rank: int
    router: tuple[int, int]


def shapes() -> dict[str, Shape]:
    import json

    zoo = json.loads((ZOO / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = ("num_key_value_heads", "head_dim", "max_position_embeddings", "tie_word_embeddings", "rope_parameters")
    tiny = {name: zoo[name] for name in (*names, *more, "pad_token_id", "eos_token_id") if name in zoo}
    small = dict(load_presets().presets["small"].config)
    return {"tiny": Shape(tiny, 64, 12, (1024, 16)), "small": Shape(small, 256, 64, (32768, 64))}


def write(folder: Path, shape: Shape) -> Path:
    """A bundle of that shape, in fp16."""
    blocks = shape.backbone["num_hidden_layers"]
    sites = tuple(Site(block, shape.rank, "") for block in sorted({0, blocks // 2, blocks - 1}))
    adapters = tuple(AdapterArch(name, "text", "", sites, shape.delta_rank, PROJECTIONS) for name in CAPABILITIES)
    router = RouterArch(CAPABILITIES, *shape.router, 1)
    arch = StudentArch(1, "bench", 42, shape.backbone, "random", adapters, (TowerArch("text", 64),), router, ())
    model = NexusForCausalLM.from_backbone(None, arch)
    torch.manual_seed(42)
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    student = Student(model, load_tokenizer(ZOO), arch, SparseIntentRouter(router))
    contract = Contract("", "", "", Direction.HIGHER, 0.97, None, 1, 8, Thresholds(0.1, 0.05))
    part = CapabilityParts(contract, ResultFacts(1.0, 1.0, 1.0, 1, None, "pass"), OptionFacts(64, ()))
    write_files(folder, BundleParts(student, dict.fromkeys(CAPABILITIES, part), {}, quantisation="fp16"))
    return folder


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of this thread, which others on the machine lengthen less than they do the clock's."""
    started = time.thread_time()
    call()
    return time.thread_time() - started


def paired(first: Callable[[], float], second: Callable[[], float], runs: int) -> tuple[float, float, float]:
    """Median seconds of each, taken in turns, and the median of the pairs' ratios, the second to the first."""
    first(), second()
    pairs = [(first(), second()) for _ in range(runs)]
    ratio = statistics.median(b / a for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio


def adapter_cost(model: NexusModel, tokens: int, runs: int) -> float:
    """An answer of so many tokens with an adapter, beside one of the plain backbone."""
    model._session._over = set()  # nothing ends early: both write as much

    def answer(capability: str | None, tokens: int) -> list[tuple[int, str]]:
        options = GenerateOptions(max_new_tokens=tokens)
        return list(model._session.pieces([PROMPT], model._voice(capability, False), options))

    def answering(capability: str | None) -> float:
        answer(capability, 1)  # a change of the adapter is paid once, and stands below
        return seconds(lambda: answer(capability, tokens))

    def changing() -> float:
        answer(None, 1)
        return seconds(lambda: answer("reasoning", 1)) - seconds(lambda: answer("reasoning", 1))

    plain, chosen, ratio = paired(lambda: answering(None), lambda: answering("reasoning"), runs)
    change = 1e3 * statistics.median(changing() for _ in range(5))
    print(
        f"  adapter    plain {tokens / plain:8,.0f} tokens/s   chosen {tokens / chosen:8,.0f}   {ratio:.3f} times the cost"
    )
    print(f"  changing   {change:,.1f} ms for the first answer with another adapter")
    return ratio


def routing(model: NexusModel, runs: int) -> float:
    """One decision on a long prompt of varied words."""
    rng = random.Random(42)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(2, 9))) for _ in range(1500)]
    prompt = " ".join(words)[:6000]
    model.route(prompt)
    took = 1e6 * statistics.median(seconds(lambda: model.route(prompt)) for _ in range(max(50, runs)))
    print(f"  routing    {took:,.0f} microseconds for {len(prompt):,} characters")
    return took


def loading(folder: Path, runs: int) -> float:
    """The whole load, beside reading each file once, hashing it, and parsing it where it holds tensors."""

    def baseline() -> None:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            raw = path.read_bytes()
            sha256(raw).hexdigest()
            if path.suffix == ".safetensors":
                parse(raw)

    least, took, ratio = paired(lambda: seconds(baseline), lambda: seconds(lambda: NexusModel.load(folder)), runs)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"  load       {size / 1e6:,.1f} MB   read and hashed {least:.3f} s   loaded {took:.3f} s   {ratio:.2f} times"
    )
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--only", choices=["tiny", "small"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    outside: list[str] = []
    for name, shape in shapes().items():
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = write(Path(place) / "bundle", shape)
            model = NexusModel.load(folder)
            print(f"{name}: {model._model.num_parameters():,} parameters in the backbone, one thread")
            figures = {
                "adapter": (adapter_cost(model, options.tokens, options.runs), COST),
                "routing": (routing(model, options.runs), MICROSECONDS),
                "load": (loading(folder, options.runs), LOAD),
            }
            if name == BUDGETED:
                outside = [f"{what} {found:.3g} > {most:g}" for what, (found, most) in figures.items() if found > most]
                print(
                    f"{name}: OUTSIDE the budget: {'; '.join(outside)}" if outside else f"{name}: within every budget"
                )
    sys.exit(bool(outside))


if __name__ == "__main__":
    main()
