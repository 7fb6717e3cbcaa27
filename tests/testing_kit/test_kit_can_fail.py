"""Every check of the conformance kit fails on a plugin that breaks it, and only that check: a check proves something."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_core.testing.run import CheckResult
from nexus_core.types import Kind


@pytest.mark.parametrize("kind", Kind)
def test_the_unchanged_plugin_passes(check, kind):
    assert check(kind) == {}


# --- any plugin --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["numpy", "torch"])
def test_a_heavy_import_at_the_top(check, only, module):
    only(
        check(Kind.CAPABILITY, ("plugin.py", "\n\nNEXUS_API", f"\nimport {module}\n\nNEXUS_API")), "lazy import", module
    )


def test_a_heavy_import_by_way_of_another_module(check, only):
    change = ("plugin.py", "\n\nNEXUS_API", "\nfrom nexus_capability_demo.pack import Demo\n\nNEXUS_API")
    failed = check(Kind.CAPABILITY, change, ("pack.py", "import hashlib\n", "import hashlib\nimport numpy\n"))
    only(failed, "lazy import", "numpy")


def test_a_distribution_of_another_name(check, only):
    only(check(Kind.CAPABILITY, distribution="nexus-capability-demoo"), "metadata", "'nexus-capability-demo'")


def test_no_declared_dependency_on_the_core(check, only):
    only(check(Kind.CAPABILITY, requires=["click"]), "metadata", "does not declare nexus-core")


def test_another_api_version(check):
    failed = check(Kind.CAPABILITY, ("plugin.py", "NEXUS_API = 1", "NEXUS_API = 99"))
    assert (
        "was written for NEXUS_API 99" in failed["hooks: API version, hook names and arguments fit the specifications"]
    )


def test_a_conformance_module_that_is_absent_or_about_another_plugin(check, only):
    failed = check(Kind.CAPABILITY, ("conformance.py", 'plugin = "demo"', 'plugin = "other"'))
    only(failed, "conformance: the package ships", "no class whose `plugin` is 'demo'")


def test_a_conformance_module_that_raises(check, only):
    failed = check(Kind.CAPABILITY, ("conformance.py", "from __future__ import annotations", "1 / 0"))
    only(failed, "conformance: the package ships", "ZeroDivisionError")


# --- capabilities ------------------------------------------------------------------------------------------------------

SPLIT = "return SPLIT_OF_TENTH[hashlib.sha256(word.encode()).digest()[0] % 10]"


def test_splits_that_overlap(check, only):
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


def test_an_order_that_depends_on_more_than_the_seed(check, only):
    change = ("pack.py", 'random.Random(f"{request.seed}-{request.split}")', "random.Random()")
    only(check(Kind.CAPABILITY, change), "samples: the same seed", "two draws with one seed differ")


def test_a_seed_that_changes_nothing(check, only):
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
def test_a_score_that_cannot_tell_right_from_wrong(check, only, score, said):
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


def test_a_pack_that_answers_for_everything(check, only):
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
def test_a_contract_that_disagrees(check, only, old, new, said):
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
def test_an_adapter_that_is_not_what_was_planned(check, only, body, title, said):
    only(check(Kind.TOWER, ("plugin.py", BUILD, body)), title, said)


def test_an_adapter_of_another_shape(check):
    body = "from torch import nn\n    return nn.Linear(plan.hidden_size, plan.hidden_size + 1)"
    failed = check(Kind.TOWER, ("plugin.py", BUILD, body))
    assert "became" in failed["adapter: keeps the shape and starts as the identity, for several ranks"]


def test_a_tower_that_builds_for_every_other(check, only):
    change = ("plugin.py", 'if plan.tower != "demo":\n        return None\n    ', "")
    only(check(Kind.TOWER, change), "adapter: builds none for another tower")


def test_a_decoder_that_loses_something(check, only):
    change = ("plugin.py", "return bytes(int(value) for value in output)", "return bytes(int(v) for v in output[:-1])")
    only(check(Kind.TOWER, change), "decode: what was encoded comes back")


def test_a_decoder_of_every_modality(check, only):
    change = ("plugin.py", 'if modality != "demo":\n        return None\n    try', "try")
    failed = check(Kind.TOWER, change, ("plugin.py", "bytes(int(value) for value in output)", 'b"as it was"'))
    only(failed, "decode: answers for its own modalities only", "decodes a modality that does not exist")


# --- the runner itself -------------------------------------------------------------------------------------------------


def test_a_check_that_raises_or_exits_is_a_failure_with_its_reason(check, only):
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
    """A new check needs a plugin that breaks it: its title must be in a test of this folder."""
    from nexus_core import testing
    from nexus_core.testing.base import Conformance

    titles = set()
    for name in testing.__all__:
        cls = getattr(testing, name)
        if issubclass(cls, Conformance):
            titles |= {
                method.__doc__.splitlines()[0] for key, method in _methods(cls).items() if key.startswith("test_")
            }
    source = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
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
