"""Recognises a GGUF file, and loads it through transformers' dequantiser. The dequantised model is the teacher."""

from __future__ import annotations

from nexus_core.hooks import hookimpl
from nexus_core.types import Category, Detection, LoadOptions, ModelSource, Teacher

NEXUS_API = 1


@hookimpl
def detect_model_category(source: ModelSource) -> Detection | None:
    if not source.path.is_file() or source.path.suffix != ".gguf":
        return None
    from nexus_teacher_gguf.header import architecture

    name = architecture(source.path)
    return Detection(Category.TRANSFORMERS, name, 0.9, f"GGUF header: {name}") if name else None


@hookimpl
def load_teacher(source: ModelSource, options: LoadOptions) -> Teacher | None:
    detection = detect_model_category(source)
    if detection is None:
        return None
    from nexus_teacher_gguf.load import load_gguf

    return load_gguf(source, options, detection)
