"""Entry point of the zoo: nothing heavy here. It knows its checkpoints by their `card.yaml`."""

from __future__ import annotations

from nexus_core.errors import ModelError
from nexus_core.hf import load_hf_teacher, read_config
from nexus_core.hooks import hookimpl
from nexus_core.types import Category, Detection, LoadOptions, ModelSource, Teacher

NEXUS_API = 1

CONFIDENCE = 0.9  # above any family plugin: the card says what this is, not its architecture


@hookimpl
def detect_model_category(source: ModelSource) -> Detection | None:
    """Claims a directory with a zoo card beside its config.json."""
    from nexus_teacher_zoo.cards import read_card

    card = read_card(source.path)
    config = read_config(source.path) if card is not None else None
    if card is None or config is None:
        return None
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(f"{source.path / 'config.json'}: no model_type", "restore the file from where the model came")
    return Detection(Category.TRANSFORMERS, model_type, CONFIDENCE, f"card.yaml: {card['id']}")


@hookimpl
def load_teacher(source: ModelSource, options: LoadOptions) -> Teacher | None:
    """Loads it as any causal LM of transformers."""
    detection = detect_model_category(source)
    return None if detection is None else load_hf_teacher(source, options, detection)
