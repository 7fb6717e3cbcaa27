"""Teaches Nexus the architecture `templatename`: which directories hold it, and how it is loaded."""

from __future__ import annotations

from nexus_core.hf import load_hf_teacher, read_config
from nexus_core.hooks import hookimpl
from nexus_core.types import Category, Detection, LoadOptions, ModelSource, Teacher

NEXUS_API = 1

MODEL_TYPE = "templatename"  # what config.json says in "model_type"
LAYOUT = "llama"  # the transformers architecture whose module layout the checkpoint has


@hookimpl
def detect_model_category(source: ModelSource) -> Detection | None:
    config = read_config(source.path)
    if config is None or config.get("model_type") != MODEL_TYPE:
        return None
    return Detection(Category.TRANSFORMERS, MODEL_TYPE, 0.8, f"config.json: model_type {MODEL_TYPE}")


@hookimpl
def load_teacher(source: ModelSource, options: LoadOptions) -> Teacher | None:
    detection = detect_model_category(source)
    return load_hf_teacher(source, options, detection, overrides={"model_type": LAYOUT}) if detection else None
