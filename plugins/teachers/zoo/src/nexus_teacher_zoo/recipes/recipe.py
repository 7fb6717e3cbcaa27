"""A recipe: everything that makes one teacher, read from `<name>.yaml` beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from nexus_core.errors import DataError

HERE = Path(__file__).parent
WEIGHTS = HERE.parent / "weights"


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """A byte-level BPE trained on the train split. `split_digits` makes every digit a token of its own.

    `pattern` is a regular expression whose matches, and the gaps between them, are the pieces that BPE works within
    (instead of GPT-2's words with their leading blank): so a word has the same tokens in a sentence and inside JSON quotes.
    `tasks` are capabilities whose train texts the merges also see: a student's tokenizer should not break their words up.
    """

    vocab_size: int = 1024
    split_digits: bool = True
    pattern: str | None = None
    train_samples: int = 20_000
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """Curriculum: up to the fraction `until` of the run, only these strata and prompts no longer than `max_chars`."""

    until: float = 1.0
    strata: tuple[str, ...] = ()
    max_chars: int | None = None
    data: str | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """The optimisation. `prompt_weight` is the loss weight of prompt tokens; answer tokens weigh 1."""

    steps: int = 3000
    batch_tokens: int = 8192
    pool: int = 2048  # samples drawn at once, then bucketed by length
    lr: float = 2e-3
    min_lr_fraction: float = 0.02
    warmup: int = 100
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip: float = 1.0
    prompt_weight: float = 0.1
    max_tokens: int = 1024
    start: str = "random"  # or "copying": see copying.py
    repeats: float = 0.0  # of a corpus: the share of batches that are random sequences said again, which teach copying
    # On rows of 100 tokens 1.6x faster on a CPU than the flash kernel, whose backward is slow; "sdpa" for long rows.
    attention: str = "eager"
    log_every: int = 50
    eval_every: int = 500
    eval_samples: int = 100
    stages: tuple[Stage, ...] = ()
    polish_steps: int = 0  # a second round on other samples, without stages, down a cosine of its own
    polish_lr: float = 1.5e-3


@dataclass(frozen=True, slots=True)
class Recipe:
    """One teacher: what it can do, its shape, its tokenizer, and how it is trained."""

    name: str
    task: str
    data: str
    config: str  # a configuration class of transformers
    kwargs: Mapping[str, Any]
    capability: str | None = None  # None: a language model on general text
    category: str = "transformers"
    license: str = "MIT"
    seed: int = 42
    verify_samples: int = 500
    control_samples: int = 20_000
    control_note: str | None = None  # what must be known to read the memorisation control's value
    tokenizer: TokenizerSpec = field(default_factory=TokenizerSpec)
    training: Training = field(default_factory=Training)


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name (`reasoning`) or by the path of a YAML file."""
    path = Path(name_or_path) if name_or_path.endswith(".yaml") else HERE / f"{name_or_path}.yaml"
    if not path.is_file():
        raise DataError(f"there is no recipe {name_or_path!r}", f"one of: {', '.join(recipe_names())}, or a .yaml path")
    raw = yaml.safe_load(path.read_text("utf-8"))
    training = dict(raw.pop("training", {}))
    stages = tuple(_build(Stage, _tuples(stage, "strata"), path) for stage in training.pop("stages", ()))
    return _build(
        Recipe,
        {
            "name": path.stem,
            **raw,
            "tokenizer": _build(TokenizerSpec, _tuples(raw.get("tokenizer", {}), "tasks"), path),
            "training": _build(Training, {**training, "stages": stages}, path),
        },
        path,
    )


def recipe_names() -> list[str]:
    """Names of the recipes that this package ships."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def _tuples(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """YAML has lists, frozen values have tuples."""
    return {key: tuple(value) if key in names else value for key, value in values.items()}


def _build(cls: type, values: Mapping[str, Any], path: Path) -> Any:
    known = {f.name for f in fields(cls)}
    if unknown := set(values) - known:
        raise DataError(f"{path.name}: unknown key {sorted(unknown)[0]!r}", f"known keys: {', '.join(sorted(known))}")
    return cls(**values)
