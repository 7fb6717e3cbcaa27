"""A tokenizer from a local directory, without the model beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nexus_core.errors import ModelError
from nexus_core.hf.quiet import quiet


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a directory; ModelError where there is none that transformers can read."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError) as error:
        raise ModelError(
            f"{path}: its tokenizer cannot be loaded: {' '.join(str(error).split())[:300]}",
            "tokenizer.json and tokenizer_config.json must be there, also where the weights are not needed any more",
        ) from error
