"""Samples from a user's rows: a long text, a question about it, an answer (LongBench's keys, or L-Eval's lists)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from nexus_capability_long_context.generator import count_tokens
from nexus_core.errors import DataError
from nexus_core.types import Sample, SampleRequest, Split

if TYPE_CHECKING:
    from nexus_core.data import StreamingDataLoader

_TEXTS = ("context", "document", "passage", "input")
_QUESTIONS = ("question", "questions", "instructions", "instruction", "query", "input")
_ANSWERS = ("answers", "answer", "outputs", "output", "target")
_NEEDED = "a row needs context (or input), question and answer"


def bind(request: SampleRequest) -> Iterator[Sample]:
    """Samples of the rows at `request.data`. All questions about one text belong to one split, by the text's hash."""
    rows = ((r.fields, f"{r.source}, row {r.index}") for r in _loader(str(request.data), request.seed))
    samples = (sample for row, where in rows for sample in samples_from_row(row, where))
    return islice((sample for sample in samples if sample.meta["split"] is request.split), request.n)


def _loader(path: str, seed: int) -> StreamingDataLoader:
    """The rows at `path`, whole: the loader is only asked to insist on the key that holds the text."""
    from nexus_core.data import LoaderOptions, StreamingDataLoader

    reasons: list[str] = []
    for key in _TEXTS:
        loader = StreamingDataLoader(path, seed=seed, options=LoaderOptions(keys=(key, key)))
        try:
            next(iter(loader))
        except DataError as error:
            reasons.append(error.message)
        else:
            return loader
    raise DataError(reasons[-1], _NEEDED)


def length_stratum(tokens: int) -> str:
    """The power of two that a length fits under: 900 tokens are in `1024`."""
    return str(1 << max(tokens - 1, 127).bit_length())


def _split_of(text: str) -> Split:
    """Foreign rows are for measuring: 20 % train, 20 % profile, 60 % verify."""
    bucket = int(Sample("", text, "").digest[:8], 16) % 5
    return Split.TRAIN if bucket == 0 else Split.PROFILE if bucket == 1 else Split.VERIFY


def _find(row: Mapping[str, Any], keys: tuple[str, ...], where: str, but: str = "") -> tuple[str, Any]:
    for key in keys:
        if key != but and row.get(key) not in (None, "", []):
            return key, row[key]
    found = ", ".join(map(str, row)) or "nothing"
    raise DataError(f"{where}: none of the keys {', '.join(k for k in keys if k != but)}; found {found}", _NEEDED)


def _texts(value: Any, where: str) -> list[str]:
    items = value if isinstance(value, list | tuple) else [value]
    texts = [str(item) for item in items if isinstance(item, str | int | float)]
    if len(texts) != len(items):
        raise DataError(f"{where}: text is expected, found {type(items[0]).__name__}", _NEEDED)
    return texts


def samples_from_row(row: Mapping[str, Any], where: str) -> list[Sample]:
    """The samples of one row: one, or one per question where questions and answers are lists of the same length."""
    key, text = _find(row, _TEXTS, where)
    if not isinstance(text, str):
        raise DataError(f"{where}: {key} is {type(text).__name__}, not text", _NEEDED)
    asked = _find(row, _QUESTIONS, where, but=key)[1]
    answers = _texts(_find(row, _ANSWERS, where)[1], where)
    questions = _texts(asked, where)
    if isinstance(asked, str):
        pairs = [(questions[0], answers)]
    elif len(questions) == len(answers):
        pairs = [(question, [answer]) for question, answer in zip(questions, answers, strict=True)]
    else:
        raise DataError(f"{where}: {len(questions)} questions but {len(answers)} answers", _NEEDED)
    stratum, split = length_stratum(count_tokens(text)), _split_of(text)
    return [
        Sample(
            id=f"{where}.{number}",
            prompt=f"{text}\nQuestion: {question}\nAnswer:",
            target=accepted[0],
            stratum=stratum,
            meta={"answers": accepted, "split": split},
        )
        for number, (question, accepted) in enumerate(pairs)
    ]
