"""Every check of the conformance kit fails on a plugin that breaks it, and only that check: a check proves something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_core.discovery import discover
from nexus_core.template import generate
from nexus_core.testing.run import CheckResult, run_checks
from nexus_core.types import Kind

Failed = dict[str, str]


@pytest.fixture
def check(site, tmp_path) -> Callable[..., Failed]:
    """Generate the template's plugin `demo` of a kind, change its sources, install it, run its checks.

    A change is (file, old text, new text). Returns title -> detail of the checks that failed.
    """

    def run(kind: Kind, *changes: tuple[str, str, str], **extra: object) -> Failed:
        root = generate(kind, "demo", tmp_path / "drafts")
        package = root / "src" / f"nexus_{kind}_demo"
        for file, old, new in changes:
            path = package / file
            text = path.read_text(encoding="utf-8")
            assert old in text, f"{file} does not hold {old!r}"
            path.write_text(text.replace(old, new), encoding="utf-8")
        files = {p.relative_to(package).as_posix(): p.read_text(encoding="utf-8") for p in package.rglob("*.*")}
        site.add(kind.value, "demo", files.pop("plugin.py"), files=files, **extra)
        refs = [ref for ref in discover() if ref.kind is kind and ref.name == "demo"]
        return {result.check: result.detail for result in run_checks(refs[0]) if not result.ok}

    return run


def only(failed: Failed, title: str, said: str = "") -> None:
    assert len(failed) == 1, failed
    ((check, detail),) = failed.items()
    assert check.startswith(title), check
    assert said in detail, detail


@pytest.mark.parametrize("kind", Kind)
def test_the_unchanged_plugin_passes(check, kind):
    assert check(kind) == {}


# --- any plugin --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["numpy", "torch"])
def test_a_heavy_import_at_the_top(check, module):
    only(
        check(Kind.CAPABILITY, ("plugin.py", "\n\nNEXUS_API", f"\nimport {module}\n\nNEXUS_API")), "lazy import", module
    )


def test_a_heavy_import_by_way_of_another_module(check):
    change = ("plugin.py", "\n\nNEXUS_API", "\nfrom nexus_capability_demo.pack import Demo\n\nNEXUS_API")
    failed = check(Kind.CAPABILITY, change, ("pack.py", "import hashlib\n", "import hashlib\nimport numpy\n"))
    only(failed, "lazy import", "numpy")


def test_a_distribution_of_another_name(check):
    only(check(Kind.CAPABILITY, distribution="nexus-capability-demoo"), "metadata", "'nexus-capability-demo'")


def test_no_declared_dependency_on_the_core(check):
    only(check(Kind.CAPABILITY, requires=["click"]), "metadata", "does not declare nexus-core")


def test_another_api_version(check):
    failed = check(Kind.CAPABILITY, ("plugin.py", "NEXUS_API = 1", "NEXUS_API = 99"))
    assert (
        "was written for NEXUS_API 99" in failed["hooks: API version, hook names and arguments fit the specifications"]
    )


def test_a_conformance_module_that_is_absent_or_about_another_plugin(check):
    failed = check(Kind.CAPABILITY, ("conformance.py", 'plugin = "demo"', 'plugin = "other"'))
    only(failed, "conformance: the package ships", "no class whose `plugin` is 'demo'")


def test_a_conformance_module_that_raises(check):
    failed = check(Kind.CAPABILITY, ("conformance.py", "from __future__ import annotations", "1 / 0"))
    only(failed, "conformance: the package ships", "ZeroDivisionError")


# --- capabilities ------------------------------------------------------------------------------------------------------

SPLIT = "return SPLIT_OF_TENTH[hashlib.sha256(word.encode()).digest()[0] % 10]"


def test_splits_that_overlap(check):
    change = ("pack.py", "if split_of(word) is request.split and word not in seen", "if word not in seen")
    same = ("pack.py", 'f"{request.seed}-{request.split}"', 'f"{request.seed}"')
    only(check(Kind.CAPABILITY, change, same), "splits: train, profile and verify share no sample", "are in both")


def test_a_split_without_samples(check):
    words = 'SYLLABLES = ["ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu"]'
    failed = check(
        Kind.CAPABILITY,
        ("pack.py", words, 'SYLLABLES = ["ba"]'),
        ("pack.py", "while request.n is None or len(seen) < request.n:", "for _ in range(99):"),
    )
    assert "distinct samples" in failed["splits: train, profile and verify share no sample"]


def test_an_order_that_depends_on_more_than_the_seed(check):
    change = ("pack.py", 'random.Random(f"{request.seed}-{request.split}")', "random.Random()")
    only(check(Kind.CAPABILITY, change), "samples: the same seed", "two draws with one seed differ")


def test_a_seed_that_changes_nothing(check):
    change = ("pack.py", 'f"{request.seed}-{request.split}"', 'f"{request.split}"')
    only(check(Kind.CAPABILITY, change), "samples: the same seed", "another seed gives the same samples")


SCORE = "return float(output.strip() == sample.target)"


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("return 1.0", "empty ones 1"),
        ("return 0.0", "reference outputs score 0"),
        ("return float(len(output) > 0)", "those of other samples 1"),
        ("return float(output.strip() != sample.target)", "reference outputs score 0"),
    ],
)
def test_a_score_that_cannot_tell_right_from_wrong(check, score, said):
    only(check(Kind.CAPABILITY, ("pack.py", SCORE, score)), "score: the reference outputs beat", said)


ODD_SCORES = {
    "raises": "assert '[' not in output; " + SCORE,
    "nan": "return float('nan') if '\\x00' in output else float(output.strip() == sample.target)",
    "encodes": "output.encode(); " + SCORE,
    "long integer": "int(output) if output.isdigit() else 0; " + SCORE,
    "returns None": "return output.strip() == sample.target or None",
}


@pytest.mark.parametrize("score", ODD_SCORES.values(), ids=ODD_SCORES)
def test_a_score_that_breaks_on_odd_outputs(check, score):
    failed = check(Kind.CAPABILITY, ("pack.py", SCORE, score))
    assert "score: odd outputs get a number, not an exception" in failed


def test_a_metric_of_another_name(check):
    failed = check(Kind.CAPABILITY, ("pack.py", 'name = "demo"', 'name = "dmeo"'))
    assert "'dmeo'" in failed["metric: answers its own capability and no other"]


def test_a_pack_that_answers_for_everything(check):
    failed = check(Kind.CAPABILITY, ("plugin.py", 'if name != "demo":\n        return None\n    ', ""))
    only(failed, "metric: answers its own capability and no other", "does not exist")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "direction: higher, retain_fraction: 0.97",
            "direction: lower, retain_fraction: 1.03",
            "the contract says lower is better",
        ),
        ("metric: exact_match", "metric: accuracy", "the contract measures accuracy"),
        ("  demo:\n", "  other:\n", "demo"),
    ],
)
def test_a_contract_that_disagrees(check, old, new, said):
    only(check(Kind.CAPABILITY, ("registry.yaml", old, new)), "contract: the registry has one", said)


# --- towers ------------------------------------------------------------------------------------------------------------

BUILD = "return AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)"


@pytest.mark.parametrize(
    ("body", "title", "said"),
    [
        (
            "module = AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)\n"
            "    module.gate.data.fill_(0.1)\n    return module",
            "adapter: keeps the shape and starts as the identity",
            "an untrained adapter changes its input",
        ),
        (
            "module = AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)\n"
            "    module.down.weight.requires_grad_(False)\n    return module",
            "adapter: with the gate open",
            "down.weight",
        ),
        (
            "return AnchoredBottleneck(plan.hidden_size, 4, plan.seed)",
            "adapter: size grows with the rank",
            "ranks 2, 4 and 8",
        ),
        (
            "import torch\n    return AnchoredBottleneck(plan.hidden_size, plan.rank, torch.initial_seed())",
            "adapter: size grows with the rank",
            "two sets of weights",
        ),
    ],
    ids=["not the identity", "a dead parameter", "ignores the rank", "ignores the seed"],
)
def test_an_adapter_that_is_not_what_was_planned(check, body, title, said):
    only(check(Kind.TOWER, ("plugin.py", BUILD, body)), title, said)


def test_an_adapter_of_another_shape(check):
    body = "from torch import nn\n    return nn.Linear(plan.hidden_size, plan.hidden_size + 1)"
    failed = check(Kind.TOWER, ("plugin.py", BUILD, body))
    assert "became" in failed["adapter: keeps the shape and starts as the identity, for several ranks"]


def test_a_tower_that_builds_for_every_other(check):
    change = ("plugin.py", 'if plan.tower != "demo":\n        return None\n    ', "")
    only(check(Kind.TOWER, change), "adapter: builds none for another tower")


def test_a_decoder_that_loses_something(check):
    change = ("plugin.py", "return bytes(int(value) for value in output)", "return bytes(int(v) for v in output[:-1])")
    only(check(Kind.TOWER, change), "decode: what was encoded comes back")


def test_a_decoder_of_every_modality(check):
    change = ("plugin.py", 'if modality != "demo":\n        return None\n    try', "try")
    failed = check(Kind.TOWER, change, ("plugin.py", "bytes(int(value) for value in output)", 'b"as it was"'))
    only(failed, "decode: answers for its own modalities only", "decodes a modality that does not exist")


# --- teachers ----------------------------------------------------------------------------------------------------------

CLAIM = 'if config is None or config.get("model_type") != MODEL_TYPE:\n        return None'
LOAD = 'return load_hf_teacher(source, options, detection, overrides={"model_type": LAYOUT}) if detection else None'


def test_detection_that_claims_everything(check):
    only(check(Kind.TEACHER, ("plugin.py", CLAIM, "")), "detection: claims neither an empty directory")


def test_detection_that_claims_whatever_has_a_config(check):
    failed = check(Kind.TEACHER, ("plugin.py", CLAIM, "if config is None:\n        return None"))
    only(failed, "detection: claims neither an empty directory", "model_type nobody knows")


def test_detection_that_misses_its_own_fixture(check):
    failed = check(Kind.TEACHER, ("plugin.py", 'MODEL_TYPE = "demo"', 'MODEL_TYPE = "other"'))
    assert "does not claim the fixture" in failed["detection: claims its fixture, with evidence"]


def test_detection_without_evidence(check):
    failed = check(Kind.TEACHER, ("plugin.py", 'f"config.json: model_type {MODEL_TYPE}"', '""'))
    only(failed, "detection: claims its fixture, with evidence", "evidence is empty")


def test_detection_of_another_category(check):
    failed = check(Kind.TEACHER, ("plugin.py", "Category.TRANSFORMERS", "Category.ASR"))
    only(failed, "detection: claims its fixture, with evidence", "category is asr")


def test_detection_that_loses_to_another(check, site):
    source = "from nexus_core.hooks import hookimpl\nfrom nexus_core.types import *\nNEXUS_API = 1\n@hookimpl\n"
    source += "def detect_model_category(source): return Detection(Category.TRANSFORMERS, 'demo', 0.95, 'mine')\n"
    site.add("teacher", "greedy", source)
    failed = check(Kind.TEACHER)
    assert "greedy is more confident" in failed["detection: wins its fixture among all installed plugins"]


def test_detection_that_reads_weights(check):
    body = (
        "if config is None or config.get('model_type') != MODEL_TYPE:\n        return None\n"
        "    size = sum(f.stat().st_size for f in source.path.glob('*.safetensors'))\n"
        "    if size < 10_000:\n        return None"
    )
    only(check(Kind.TEACHER, ("plugin.py", CLAIM, body)), "detection: reads no tensor data")


def test_a_load_with_a_random_tensor(check):
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


def test_a_load_that_initialises_what_is_missing(check):
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


def test_answers_that_depend_on_the_batch(check):
    """Padding on the right: what a tokenizer does by default."""
    after = "teacher._tokenizer.padding_side = 'right'"
    failed = check(Kind.TEACHER, ("plugin.py", LOAD, WITH.format(after=after)))
    only(failed, "encode: an answer does not depend on what it is batched with", "is answered otherwise in a batch")


@pytest.mark.parametrize(
    ("body", "said"),
    [("['nowhere']", "'nowhere' is not a block"), ("list(teacher.blocks) * 2", "twice"), ("[]", "chose no block"),
     ("'model.layers.0'", "returned str")],
)  # fmt: skip
def test_layers_that_cannot_be_meant(check, body, said):
    hook = f"\n\n@hookimpl\ndef select_layers(teacher, capability, pilot):\n    return {body}\n"
    failed = check(Kind.TEACHER, ("plugin.py", LOAD, LOAD + hook))
    only(failed, "layers: the chosen blocks exist", said)


# --- the runner itself -------------------------------------------------------------------------------------------------


def test_a_check_that_raises_or_exits_is_a_failure_with_its_reason(check):
    body = '\n    def test_mine(self) -> None:\n        """mine: a check of the author\'s own"""\n        {}\n'
    for statement, said in (("raise KeyError('x')", "KeyError: 'x'"), ("raise SystemExit(2)", "SystemExit: 2"),
                            ("assert 1 == 2, 'one is not two'", "AssertionError: one is not two"),
                            ("assert False", "AssertionError")):  # fmt: skip
        assert _own_check(statement) == said
    only(check(Kind.CAPABILITY, ("conformance.py", 'plugin = "demo"\n', f'plugin = "demo"\n{body.format("1 / 0")}')),
         "mine: a check of the author's own", "ZeroDivisionError")  # fmt: skip


def _own_check(statement: str) -> str:
    from nexus_core.testing.run import _failure

    def method() -> None:
        exec(statement)

    return _failure(method)


def test_every_check_of_the_kit_is_shown_to_fail_here():
    """A new check needs a plugin above that breaks it: its title must be in this file."""
    from nexus_core import testing
    from nexus_core.testing.base import Conformance

    titles = set()
    for name in testing.__all__:
        cls = getattr(testing, name)
        if issubclass(cls, Conformance):
            titles |= {
                method.__doc__.splitlines()[0] for key, method in _methods(cls).items() if key.startswith("test_")
            }
    source = Path(__file__).read_text(encoding="utf-8")
    shown = {title for title in titles if _is_in(title, source)}
    assert len(titles) > 15
    assert titles - shown == set()


def _methods(cls: type) -> dict[str, object]:
    return {key: value for base in reversed(cls.__mro__) for key, value in vars(base).items()}


def _is_in(title: str, source: str) -> bool:
    """Some quoted prefix of at least three words of the title, or the word before the colon where that is unique."""
    words = title.split()
    return any(f'"{" ".join(words[:n])}' in source for n in range(min(4, len(words)), len(words) + 1)) or (
        words[0] == "metadata:" and '"metadata"' in source
    ) or (title.startswith("lazy import:") and '"lazy import"' in source)  # fmt: skip


def test_results_are_values():
    assert CheckResult("x", "y", "").ok
    assert not CheckResult("x", "y", "why").ok
