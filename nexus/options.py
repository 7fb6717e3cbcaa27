"""What a caller may ask of an answer, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from nexus_core.errors import UsageError
from nexus_core.suggest import did_you_mean
from nexus_core.types import GenerateOptions


class Options(TypedDict, total=False):
    """`temperature` 0 is greedy. Answers end before the first of the strings in `stop`.

    What is not given is as the capability was verified.
    """

    max_new_tokens: int | None
    temperature: float
    top_p: float
    stop: str | Sequence[str]
    seed: int


def checked(options: Mapping[str, Any], verified: GenerateOptions) -> GenerateOptions:
    """The options of one call, on those that the capability was verified with; `UsageError` for what cannot be meant."""
    names = tuple(Options.__annotations__)
    if unknown := sorted(set(options) - set(names)):
        raise UsageError(
            f'there is no option "{unknown[0]}"{did_you_mean(unknown[0], names)}', f"options: {', '.join(names)}"
        )
    most = options.get("max_new_tokens")
    stop = options.get("stop", verified.stop)
    return GenerateOptions(
        max_new_tokens=verified.max_new_tokens if most is None else _whole("max_new_tokens", most, 1),
        temperature=_number("temperature", options.get("temperature", 0.0), 0.0, math.inf),
        top_p=_share(options.get("top_p", 1.0)),
        stop=_strings((stop,) if isinstance(stop, str) else stop),
        batch_size=verified.batch_size,
        seed=_whole("seed", options.get("seed", verified.seed), 0),
    )


def _whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63:
        raise UsageError(f"{name} is {value!r}", f"give a whole number from {least}")
    return value


def _number(name: str, value: Any, least: float, most: float) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}", f"give a number from {least:g} to {most:g}")
    return float(value)


def _share(value: Any) -> float:
    share = _number("top_p", value, 0.0, 1.0)
    if share == 0.0:
        raise UsageError("top_p is 0: no token would be left", "give a number above 0; temperature=0 is greedy")
    return share


def _strings(stop: Any) -> tuple[str, ...]:
    if not isinstance(stop, Sequence) or not all(isinstance(word, str) and word for word in stop):
        raise UsageError(f"stop is {stop!r}", "give a string that is not empty, or several")
    return tuple(stop)
