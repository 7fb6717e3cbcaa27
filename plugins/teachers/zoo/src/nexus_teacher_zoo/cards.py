"""Read a teacher's card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nexus_core.errors import ModelError

MAX_BYTES = 1 << 16  # a card is a page


def read_card(directory: Path) -> dict[str, Any] | None:
    """The card of a zoo checkpoint; None if there is none, or it is someone else's."""
    path = directory / "card.yaml"
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    try:
        card = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {' '.join(str(error).split())}", "restore the file, or delete it") from error
    if not isinstance(card, dict) or not str(card.get("id", "")).startswith("zoo-"):
        return None
    return card
