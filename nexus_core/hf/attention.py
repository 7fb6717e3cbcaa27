"""Attention weights exist only where attention is computed step by step: fused kernels never form them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from nexus_core.hf.quiet import quiet


def eager_attention(model: Any) -> AbstractContextManager[None]:
    """Inside, a transformers model's attention modules return (output, weights)."""
    return attention_by(model, "eager")


@contextmanager
def attention_by(model: Any, implementation: str) -> Iterator[None]:
    """Inside, a transformers model attends by this implementation; its own comes back after.

    A model that does not let itself be switched is left alone: whoever needs its weights sees whether they come.
    """
    setter, config = getattr(model, "set_attn_implementation", None), getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    if setter is None or before is None:
        yield
        return
    parts = {name: getattr(config, name, None) for name in getattr(config, "sub_configs", {})}
    own = {name: part._attn_implementation for name, part in parts.items() if part is not None}
    if {before, *own.values()} == {implementation}:
        yield  # nothing to switch: a training asks for this at every batch, on several threads
        return
    with quiet():
        setter(implementation)
    try:
        yield
    finally:
        with quiet():
            setter({"": before, **own} if own else before)
