"""Every check of a teacher's plugin fails on one that breaks it, and only that check."""

from __future__ import annotations

import pytest

from nexus_core.types import Kind

CLAIM = 'if config is None or config.get("model_type") != MODEL_TYPE:\n        return None'
LOAD = 'return load_hf_teacher(source, options, detection, overrides={"model_type": LAYOUT}) if detection else None'


def test_detection_that_claims_everything(check, only):
    only(check(Kind.TEACHER, ("plugin.py", CLAIM, "")), "detection: claims neither an empty directory")


def test_detection_that_claims_whatever_has_a_config(check, only):
    failed = check(Kind.TEACHER, ("plugin.py", CLAIM, "if config is None:\n        return None"))
    only(failed, "detection: claims neither an empty directory", "model_type nobody knows")


def test_detection_that_misses_its_own_fixture(check):
    failed = check(Kind.TEACHER, ("plugin.py", 'MODEL_TYPE = "demo"', 'MODEL_TYPE = "other"'))
    assert "does not claim the fixture" in failed["detection: claims its fixture, with evidence"]


def test_detection_without_evidence(check, only):
    failed = check(Kind.TEACHER, ("plugin.py", 'f"config.json: model_type {MODEL_TYPE}"', '""'))
    only(failed, "detection: claims its fixture, with evidence", "evidence is empty")


def test_detection_of_another_category(check, only):
    failed = check(Kind.TEACHER, ("plugin.py", "Category.TRANSFORMERS", "Category.ASR"))
    only(failed, "detection: claims its fixture, with evidence", "category is asr")


def test_detection_that_loses_to_another(check, site):
    source = "from nexus_core.hooks import hookimpl\nfrom nexus_core.types import *\nNEXUS_API = 1\n@hookimpl\n"
    source += "def detect_model_category(source): return Detection(Category.TRANSFORMERS, 'demo', 0.95, 'mine')\n"
    site.add("teacher", "greedy", source)
    failed = check(Kind.TEACHER)
    assert "greedy is more confident" in failed["detection: wins its fixture among all installed plugins"]


def test_detection_that_reads_weights(check, only):
    body = (
        "if config is None or config.get('model_type') != MODEL_TYPE:\n        return None\n"
        "    size = sum(f.stat().st_size for f in source.path.glob('*.safetensors'))\n"
        "    if size < 10_000:\n        return None"
    )
    only(check(Kind.TEACHER, ("plugin.py", CLAIM, body)), "detection: reads no tensor data")


def test_a_load_with_a_random_tensor(check, only):
    body = (
        "if detection is None:\n        return None\n    import torch\n"
        "    teacher = load_hf_teacher(source, options, detection, overrides={'model_type': LAYOUT})\n"
        "    torch.seed()\n    teacher.model.model.norm.weight.data.normal_()\n    return teacher"
    )
    failed = check(Kind.TEACHER, ("plugin.py", LOAD, body))
    only(failed, "load: two loads give the same parameters", "two loads differ")


NAIVE = (
    "if detection is None:\n        return None\n"
    "    from transformers import AutoTokenizer, LlamaForCausalLM\n"
    "    from nexus_core.hf import HFTeacher, read_config\n"
    "    from nexus_core.hf.quiet import quiet\n"
    "    from transformers import LlamaConfig\n"
    "    config = LlamaConfig.from_dict({{**read_config(source.path), 'model_type': 'llama'}})\n"
    "    with quiet():\n        model = LlamaForCausalLM.from_pretrained(source.path, config=config)\n"
    "    teacher = HFTeacher(source, detection, model, AutoTokenizer.from_pretrained(source.path, config=config))\n"
    "    {after}\n    return teacher"
)


def test_a_load_that_initialises_what_is_missing(check, only):
    """What `from_pretrained` alone does."""
    failed = check(Kind.TEACHER, ("plugin.py", LOAD, NAIVE.format(after="pass")))
    only(failed, "load: a checkpoint that lacks a tensor is refused", "loads although")


@pytest.mark.parametrize(
    ("after", "said"), [("model.train()", "in training mode"), ("model.requires_grad_(True)", "require gradients")]
)
def test_a_load_that_is_not_frozen(check, after, said):
    failed = check(Kind.TEACHER, ("plugin.py", LOAD, NAIVE.format(after=after)))
    assert said in failed["load: two loads give the same parameters, frozen and in eval mode"]


WITH = (
    "if detection is None:\n        return None\n"
    "    teacher = load_hf_teacher(source, options, detection, overrides={{'model_type': LAYOUT}})\n"
    "    {after}\n    return teacher"
)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("teacher._blocks = {}", "no blocks found"),
        ("teacher._blocks = dict(reversed(list(teacher.blocks.items())))", "blocks ran in the order"),
        ("teacher._blocks = {**teacher.blocks, 'model.embed': teacher.model.model.layers}", "blocks ran in the order"),
    ],
    ids=["none", "reversed", "one that never runs"],
)
def test_blocks_that_are_not_the_blocks(check, after, said):
    failed = check(Kind.TEACHER, ("plugin.py", LOAD, WITH.format(after=after)))
    assert said in failed["blocks: every block runs once per forward, and a hook on it changes no bit of the output"]


def test_answers_that_depend_on_the_batch(check, only):
    """Padding on the right: what a tokenizer does by default."""
    after = "teacher._tokenizer.padding_side = 'right'"
    failed = check(Kind.TEACHER, ("plugin.py", LOAD, WITH.format(after=after)))
    only(failed, "encode: an answer does not depend on what it is batched with", "is answered otherwise in a batch")


@pytest.mark.parametrize(
    ("body", "said"),
    [("['nowhere']", "'nowhere' is not a block"), ("list(teacher.blocks) * 2", "twice"), ("[]", "chose no block"),
     ("'model.layers.0'", "returned str")],
)  # fmt: skip
def test_layers_that_cannot_be_meant(check, only, body, said):
    hook = f"\n\n@hookimpl\ndef select_layers(teacher, capability, pilot):\n    return {body}\n"
    failed = check(Kind.TEACHER, ("plugin.py", LOAD, LOAD + hook))
    only(failed, "layers: the chosen blocks exist", said)
