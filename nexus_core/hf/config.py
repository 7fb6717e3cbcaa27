"""Read a checkpoint's config.json without transformers, and say exactly what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nexus_core.errors import ModelError

MAX_CONFIG_BYTES = 8 << 20  # the largest real config.json (an omni model with its vocabularies) is under 1 MB


def read_config(directory: Path) -> dict[str, Any] | None:
    """The parsed config.json of a model directory; None if there is none. Damage is a `ModelError`."""
    path = directory / "config.json"
    if not directory.is_dir() or not path.is_file():
        return None
    hint = "restore the file from where the model came"
    if (size := path.stat().st_size) > MAX_CONFIG_BYTES:
        raise ModelError(f"{path}: {size:,} bytes is no model configuration", hint)
    try:
        config = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 at byte {error.start}", hint) from error
    except json.JSONDecodeError as error:
        raise ModelError(
            f"{path}: malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}", hint
        ) from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise ModelError(f"{path}: malformed JSON: {error}", hint) from error
    except RecursionError as error:
        raise ModelError(f"{path}: JSON nested too deeply", hint) from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: holds a {type(config).__name__}, expected an object", hint)
    return config
