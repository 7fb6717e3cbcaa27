"""General text that lies on any machine with Python: the standard library, its help topics and the licence.

It holds none of the capabilities' tasks. Documents are ordered by name, so the corpus is the same for a given Python
build; one document in twenty, by the hash of its text, is held out.
"""

from __future__ import annotations

import hashlib
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_teacher_zoo.recipes.recipe import Recipe, Stage
from nexus_teacher_zoo.recipes.text import END, Batch

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "encodings", "ensurepip", "turtledemo"}
REPEAT_WIDTHS = (
    64,
    128,
    256,
    512,
    1024,
    2048,
)  # tokens of a row of repeats; as long as an answer may have to look back
REPEAT_TOKENS = (16, 64, 256, 1024)  # different ones in a row; the fewer, the more of what came before decides
FIRST_TOKEN = 4  # those before it are the special ones
LARGEST = 200_000  # characters; larger files are tables


def documents() -> Iterator[tuple[str, str]]:
    """(name, text) of every document, in order of name."""
    library = Path(sysconfig.get_path("stdlib"))
    licences = [path for path in (library / "LICENSE.txt", library.parent.parent / "LICENSE.txt") if path.is_file()]
    sources = [p for p in library.rglob("*.py") if not SKIPPED & set(p.relative_to(library).parts[:-1])]
    for path in sorted(sources) + licences[:1]:
        text = path.read_text("utf-8", errors="ignore")
        if path.name != "topics.py" and 200 < len(text) < LARGEST:
            yield path.relative_to(library).as_posix() if path.suffix == ".py" else path.name, text
    from pydoc_data.topics import topics

    yield from ((f"topic {name}", text) for name, text in sorted(topics.items()))


def corpus_texts(held_out: bool) -> Iterator[str]:
    """The documents that are trained on, or the held-out ones."""
    for _, text in documents():
        if (hashlib.sha256(text.encode()).digest()[0] < 13) == held_out:
            yield text


@dataclass(slots=True)
class CorpusBatches:
    """Endless batches of equal pieces of the corpus, in a new order each time round, and of random sequences said again."""

    tokenizer: Any
    recipe: Recipe
    skipped: int = 0

    def batches(self, stage: Stage) -> Iterator[Batch]:
        """Batches of one stage; its `max_chars` and strata do not apply to a corpus."""
        shuffle, text = random.Random(self.recipe.seed), self._text()
        while True:
            yield self._repeats(shuffle) if shuffle.random() < self.recipe.training.repeats else next(text)

    def _text(self) -> Iterator[Batch]:
        """Pieces of `max_tokens`; all tokens weigh 1."""
        import torch

        spec, shuffle = self.recipe.training, random.Random(self.recipe.seed)
        ids = token_stream(self.tokenizer, corpus_texts(held_out=False))
        rows = spec.batch_tokens // spec.max_tokens
        while True:
            starts = list(range(shuffle.randrange(spec.max_tokens), len(ids) - spec.max_tokens, spec.max_tokens))
            shuffle.shuffle(starts)
            for i in range(0, len(starts) - rows, rows):
                pieces = torch.stack([ids[s : s + spec.max_tokens] for s in starts[i : i + rows]])
                yield Batch(pieces, torch.ones(pieces.shape))

    def _repeats(self, shuffle: random.Random) -> Batch:
        """Random tokens, then pieces of them again in another order: only what can be copied weighs anything.

        It holds no task; a model that has learnt to find what followed last time learns any retrieval sooner.
        """
        import torch

        spec = self.recipe.training
        width = shuffle.choice(REPEAT_WIDTHS)
        first, generator = width // 2, torch.Generator().manual_seed(shuffle.getrandbits(63))
        rows, weights = torch.empty(spec.batch_tokens // width, width, dtype=torch.long), []
        some = min(shuffle.choice(REPEAT_TOKENS), len(self.tokenizer) - FIRST_TOKEN)
        for row in rows:
            known = FIRST_TOKEN + torch.randperm(len(self.tokenizer) - FIRST_TOKEN, generator=generator)[:some]
            row[:first] = known[torch.randint(some, (first,), generator=generator)]
            weight, at = torch.zeros(width), first
            while at < width:
                size = min(shuffle.randint(8, 32), first // 2, width - at)
                start = shuffle.randrange(first - size)
                row[at : at + size] = row[start : start + size]
                weight[at + 1 : at + size] = 1.0  # the first token of a piece cannot be known
                at += size
            weights.append(weight)
        return Batch(rows, torch.stack(weights))


def token_stream(tokenizer: Any, texts: Iterator[str]) -> Any:
    """All documents as one row of ids, each ended by the end token."""
    import torch

    encoded = tokenizer.backend_tokenizer.encode_batch([text + END for text in texts], add_special_tokens=False)
    return torch.tensor([i for document in encoded for i in document.ids])


def corpus_loss(path: Path, width: int = 256, pieces: int = 400) -> dict[str, Any]:
    """Held-out cross-entropy of a saved language model, in nats per byte (which does not depend on the tokenizer)."""
    from torch.nn import functional

    from nexus_teacher_zoo.recipes.evaluate import load_checkpoint

    teacher = load_checkpoint(path)
    tokenizer = teacher.processor
    ids = token_stream(tokenizer, corpus_texts(held_out=True))
    rows = ids[: min(pieces, len(ids) // width) * width].view(-1, width)
    total = 0.0
    for batch in rows.split(16):
        logits = teacher.forward({"input_ids": batch}).logits[:, :-1]
        total += float(functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
    size = sum(len(tokenizer.decode(row[1:]).encode()) for row in rows)
    tokens = rows.shape[0] * (width - 1)
    return {
        "metric": "cross-entropy",
        "nats_per_byte": round(total / size, 4),
        "nats_per_token": round(total / tokens, 4),
        "n": tokens,
        "split": "documents held out by the hash of their text",
    }
