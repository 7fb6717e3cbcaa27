"""Which characters of a prompt each of its tokens is, behind whatever a chat template writes around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nexus_core.hf.quiet import quiet
from nexus_core.types import Sample

Span = tuple[int, int]
_MARK = "\ue000"  # a private character, which no template writes: it shows where a template puts the prompt


def prompt_spans(tokenizer: Any, render: Callable[[Sample], str], samples: Sequence[Sample]) -> list[list[Span]] | None:
    """Of each token of `render(sample)`, its characters in `sample.prompt`; (0, 0) if of none (a template's).

    None where the tokenizer keeps no account of it.
    """
    if not tokenizer.is_fast:
        return None
    lead = render(Sample("", _MARK, "")).find(_MARK)  # what the template writes before the prompt
    texts = [render(sample) for sample in samples]
    with quiet():
        # A chat template writes the special tokens itself.
        specials = not getattr(tokenizer, "chat_template", None)
        found = tokenizer(texts, add_special_tokens=specials, return_offsets_mapping=True)["offset_mapping"]
    return [_inside(text, s.prompt, lead, row) for text, s, row in zip(texts, samples, found, strict=True)]


def _inside(text: str, prompt: str, lead: int, spans: Sequence[Span]) -> list[Span]:
    """Spans of the text as spans of the prompt, which starts in it at `lead`; a template may have stripped it."""
    for kept in (prompt, prompt.strip()):
        if lead >= 0 and text.startswith(kept, lead):
            shift, end = prompt.find(kept) - lead, lead + len(kept)
            moved = [(max(start, lead) + shift, min(stop, end) + shift) for start, stop in spans]
            return [(start, stop) if start < stop else (0, 0) for start, stop in moved]
    return [(0, 0)] * len(spans)  # the template rewrites the prompt: no place of the one is known in the other
