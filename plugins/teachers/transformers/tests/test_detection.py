"""Detection by model_type, from a table that says what the installed transformers says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from nexus_teacher_transformers.model_types import categories, generate

from nexus_core.errors import ModelError
from nexus_core.plugins import Plugins
from nexus_core.types import Category, ModelSource


@pytest.fixture(scope="module")
def plugins():
    return Plugins(["transformers"])


@pytest.fixture
def directory(tmp_path):
    def write(config: object) -> ModelSource:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return ModelSource(tmp_path)

    return write


@pytest.mark.parametrize(
    ("model_type", "category"),
    [
        ("llama", Category.TRANSFORMERS),
        ("qwen3", Category.TRANSFORMERS),
        ("qwen3_moe", Category.TRANSFORMERS),
        ("gpt2", Category.TRANSFORMERS),
        ("mamba", Category.TRANSFORMERS),
        ("t5", Category.TRANSFORMERS),
        ("bert", Category.TRANSFORMERS),
        ("whisper", Category.ASR),
        ("wav2vec2", Category.ASR),
        ("vits", Category.TTS),
        ("llava", Category.MULTIMODAL),
        ("vit", Category.VISION_ENCODER),
        ("siglip", Category.VISION_ENCODER),
        ("videomae", Category.VISION_ENCODER),
    ],
)
def test_category(plugins, directory, model_type, category):
    claim = plugins.detect(directory({"model_type": model_type}))
    assert (claim.detection.category, claim.detection.model_type) == (category, model_type)
    assert 0 < claim.detection.confidence <= 0.5, "a family plugin, which knows more, stays above"


@pytest.mark.parametrize(
    "config", [{}, {"model_type": "stranger"}, {"model_type": None}, {"model_type": ["llama"]}, {"model_type": 3}]
)
def test_what_it_does_not_know_it_does_not_claim(plugins, directory, config):
    with pytest.raises(ModelError, match="no teacher plugin recognises this"):
        plugins.detect(directory(config))


@pytest.mark.parametrize("model_type", ["vit", "t5", "llava"])
def test_what_it_cannot_load_it_says_with_its_category(plugins, directory, model_type):
    source = directory({"model_type": model_type})
    category = plugins.detect(source).detection.category
    with pytest.raises(ModelError, match=f"a {category} model \\({model_type}\\); this plugin loads causal LMs"):
        plugins.load_teacher(source)


def test_the_table_is_that_of_the_installed_transformers():
    """After an upgrade: python -m nexus_teacher_transformers.model_types"""
    assert categories() == generate()


def test_every_category_in_the_table_is_one():
    assert {row["category"] for row in categories().values()} <= set(Category)
    assert len(categories()) > 300


def test_detection_imports_no_torch(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    code = "import sys; from pathlib import Path; from nexus_core.plugins import Plugins; "
    code += "from nexus_core.types import ModelSource; "
    code += f"assert Plugins(['transformers']).detect(ModelSource(Path({str(tmp_path)!r}))); "
    code += "print('torch' in sys.modules, 'transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
