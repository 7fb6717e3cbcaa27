"""model_type -> category, as the installed transformers has it, kept as data so that detection imports nothing heavy.

Refresh after an upgrade of transformers: python -m nexus_teacher_transformers.model_types
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("model_types.json")

# First mapping that knows a model_type decides. A type that can do several things (Whisper is in the causal list too)
# is what its most particular mapping says, so general-purpose mappings come last.
CATEGORY_OF_MAPPING = [
    ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", "asr"),
    ("MODEL_FOR_CTC_MAPPING_NAMES", "asr"),
    ("MODEL_FOR_TDT_MAPPING_NAMES", "asr"),
    ("MODEL_FOR_RNNT_MAPPING_NAMES", "asr"),
    ("MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES", "tts"),
    ("MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES", "tts"),
    ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "multimodal"),
    ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "transformers"),
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "transformers"),
    ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "transformers"),
    ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", "vision_encoder"),
    ("MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES", "vision_encoder"),
    ("MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES", "vision_encoder"),
]


@cache
def categories() -> dict[str, dict[str, str | bool]]:
    """model_type -> {"category": ..., "causal_lm": whether AutoModelForCausalLM knows it}."""
    table: dict[str, dict[str, str | bool]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def generate() -> dict[str, dict[str, str | bool]]:
    from transformers.models.auto import modeling_auto

    table: dict[str, dict[str, str | bool]] = {}
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    for mapping, category in CATEGORY_OF_MAPPING:
        for model_type in getattr(modeling_auto, mapping):
            table.setdefault(model_type, {"category": category, "causal_lm": model_type in causal})
    return dict(sorted(table.items()))


if __name__ == "__main__":
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in generate().items())
    TABLE.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
