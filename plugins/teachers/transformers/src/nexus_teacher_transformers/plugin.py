"""The generic teacher: any model_type that transformers has a class for; causal LMs are loaded.

A family plugin that knows more of its architecture answers with a higher confidence than this one's.
"""

from __future__ import annotations

from nexus_core.errors import ModelError
from nexus_core.hf import load_hf_teacher, read_config
from nexus_core.hooks import hookimpl
from nexus_core.types import Category, Detection, LoadOptions, ModelSource, Teacher

NEXUS_API = 1

CONFIDENCE = 0.5  # leaves room above for families, and below for guesses from file names


@hookimpl
def detect_model_category(source: ModelSource) -> Detection | None:
    from nexus_teacher_transformers.model_types import categories

    config = read_config(source.path)
    model_type = config.get("model_type") if config else None
    row = categories().get(model_type) if isinstance(model_type, str) else None
    if row is None:
        return None
    return Detection(Category(row["category"]), str(model_type), CONFIDENCE, f"config.json: model_type {model_type}")


@hookimpl
def load_teacher(source: ModelSource, options: LoadOptions) -> Teacher | None:
    from nexus_teacher_transformers.model_types import categories

    detection = detect_model_category(source)
    if detection is None:
        return None
    if not categories()[detection.model_type]["causal_lm"]:
        raise ModelError(
            f"{source.path}: a {detection.category.value} model ({detection.model_type}); this plugin loads causal LMs",
            "install the plugin of its family: nexus plugins",
        )
    return load_hf_teacher(source, options, detection)
