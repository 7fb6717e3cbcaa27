"""One real caller of each hook: from the facade through pluggy into an installed plugin and back."""

from __future__ import annotations

import pytest
import torch

from nexus_core.errors import ModelError, NexusError, PluginError
from nexus_core.plugins import Plugins
from nexus_core.testing import tiny
from nexus_core.types import (
    AdapterPlan,
    Category,
    DecodeOptions,
    GenerateOptions,
    LoadOptions,
    ModelSource,
    PilotScores,
    Sample,
    SampleRequest,
    Split,
)

HEAD = "from nexus_core.hooks import hookimpl\nfrom nexus_core.types import *\nNEXUS_API = 1\n"
DETECT = HEAD + "@hookimpl\ndef detect_model_category(source):\n    return {}\n"
HOOKS = {  # hook -> (kind, call through the facade, a body that answers)
    "detect_model_category": ("teacher", lambda p, s: p.detect(s)),
    "load_teacher": ("teacher", lambda p, s: p.load_teacher(s)),
    "capability_metric": ("capability", lambda p, s: p.capability_metric("probe")),
    "build_adapter": ("tower", lambda p, s: p.build_adapter(AdapterPlan("probe", "probe", 8, 2))),
    "decode": ("tower", lambda p, s: p.decode("probe", b"")),
}
PARAMETERS = {
    "detect_model_category": "source",
    "load_teacher": "source, options",
    "select_layers": "teacher, capability, pilot",
    "capability_metric": "name",
    "build_adapter": "plan",
    "decode": "modality, output, options",
}
CLAIM = "Detection(Category.TRANSFORMERS, 'probe', 0.9, 'a test')"


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return ModelSource(tiny.save_causal_lm(tmp_path_factory.mktemp("llama"), "llama"))


def probe(site, hook: str, body: str) -> Plugins:
    """A plugin called `probe` whose `hook` does `body`, alone and named."""
    source = f"{HEAD}@hookimpl\ndef {hook}({PARAMETERS[hook]}):\n    {body}\n"
    if hook in ("load_teacher", "select_layers"):
        source += f"@hookimpl\ndef detect_model_category(source):\n    return {CLAIM}\n"
    if hook == "select_layers":
        source += "@hookimpl\ndef load_teacher(source, options):\n"
        source += "    from nexus_core.hf import load_hf_teacher\n"
        source += "    return load_hf_teacher(source, options, detect_model_category(source))\n"
    site.add({**HOOKS, "select_layers": ("teacher", None)}[hook][0], "probe", source)
    return Plugins(["probe"])


# --- each hook, by a plugin that ships -------------------------------------------------------------------------------


def test_hook_detect_model_category(llama):
    claim = Plugins(["transformers"]).detect(llama)
    assert claim.plugin == "transformers"
    assert claim.detection.category is Category.TRANSFORMERS
    assert claim.detection.model_type == "llama"
    assert "config.json" in claim.detection.evidence


def test_hook_load_teacher(llama):
    teacher = Plugins(["transformers"]).load_teacher(llama, LoadOptions(dtype="float32"))
    assert teacher.plugin == "transformers"
    answers = teacher.generate([Sample("0", "one", ""), Sample("1", "two", "")], GenerateOptions(max_new_tokens=2))
    assert len(answers) == 2


def test_hook_select_layers(site, llama):
    plugins = probe(site, "select_layers", "return [max(teacher.blocks)] if capability == 'timbre' else None")
    teacher = plugins.load_teacher(llama)
    names = list(teacher.blocks)
    pilot = PilotScores(dict(zip(names, (0.5, 0.1), strict=True)), baseline=1.0, n=20)
    assert plugins.select_layers(teacher, "timbre", pilot) == [names[1]]
    assert plugins.select_layers(teacher, "reasoning", pilot) == names, "without an answer: the largest drops first"


def test_hook_capability_metric():
    metric = Plugins(["reasoning"]).capability_metric("reasoning")
    sample = next(metric.samples(SampleRequest(Split.PROFILE, 1)))
    assert metric.score(sample, sample.target) == 1.0


def test_hook_build_adapter():
    module = Plugins(["text"]).build_adapter(AdapterPlan("reasoning", "text", hidden_size=16, rank=4))
    hidden = torch.randn(1, 3, 16)
    assert torch.equal(module(hidden), hidden)


def test_hook_decode():
    tokenizer = tiny.byte_tokenizer()
    ids = tokenizer("4 ✓")["input_ids"]
    assert Plugins(["text"]).decode("text", ids, DecodeOptions(processor=tokenizer)) == "4 ✓"


# --- what can go wrong inside one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("body", ["raise ValueError('broken\\n inside')", "import sys; sys.exit(4)"])
def test_an_exception_names_plugin_and_hook(site, llama, hook, body):
    with pytest.raises(PluginError, match=rf"plugin probe, hook {hook}: (ValueError: broken inside|SystemExit: 4)"):
        HOOKS[hook][1](probe(site, hook, body), llama)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_nexus_error_keeps_its_words_and_gains_the_names(site, llama, hook):
    body = "from nexus_core.errors import ModelError; raise ModelError('its own words', 'its own hint')"
    with pytest.raises(NexusError) as caught:
        HOOKS[hook][1](probe(site, hook, body), llama)
    assert (caught.value.message, caught.value.hint) == ("its own words", "its own hint")
    assert caught.value.__notes__ == [f"plugin probe, hook {hook}"]


WRONG = {
    "detect_model_category": [("'llama'", "returned str, expected Detection or None"), ("0", "returned int")],
    "load_teacher": [("object()", "returned object, expected Teacher or None")],
    "select_layers": [
        ("'model.layers.0'", "returned str, expected a list of block names"),
        ("[0, 1]", "returned list, expected a list of block names"),
        ("3", "returned int"),
        ("['model.layers.99']", "'model.layers.99' is not a block of this teacher"),
        ("[]", "chose no block"),
        ("['model.layers.0', 'model.layers.0']", "'model.layers.0' twice"),
    ],
    "capability_metric": [("CapabilityMetric", "returned ABCMeta, expected CapabilityMetric"), ("{}", "returned dict")],
    "build_adapter": [("lambda h: h", "returned function, expected torch.nn.Module"), ("0", "returned int")],
}


@pytest.mark.parametrize(("hook", "value", "said"), [(h, v, s) for h, rows in WRONG.items() for v, s in rows])
def test_a_wrong_return_type_names_plugin_hook_and_type(site, llama, hook, value, said):
    plugins = probe(site, hook, f"return {value}")
    with pytest.raises(PluginError, match=f"plugin probe, hook {hook}: .*{said}"):
        if hook == "select_layers":
            plugins.select_layers(plugins.load_teacher(llama), "timbre", PilotScores({"model.layers.0": 1.0}, 1.0, 20))
        else:
            HOOKS[hook][1](plugins, llama)


@pytest.mark.parametrize("confidence", ["1.5", "-0.1", "float('nan')", "'high'", "None"])
def test_a_confidence_outside_0_to_1_is_refused(site, llama, confidence):
    plugins = probe(site, "detect_model_category", f"return {CLAIM.replace('0.9', confidence)}")
    with pytest.raises(PluginError, match="plugin probe, hook detect_model_category: returned a confidence of"):
        plugins.detect(llama)


# --- who answers when several could ----------------------------------------------------------------------------------


def test_equal_confidence_is_an_error_that_names_both(site, llama):
    for name in ("alpha", "beta"):
        site.add("teacher", name, DETECT.format(CLAIM))
    with pytest.raises(PluginError, match=r"alpha and beta claim it with the same confidence 0\.9") as caught:
        Plugins().detect(llama)
    assert "--plugins" in caught.value.hint
    assert Plugins(["beta"]).detect(llama).plugin == "beta"


def test_the_more_confident_plugin_wins_whatever_the_order(site, llama):
    site.add("teacher", "aaa", DETECT.format(CLAIM.replace("0.9", "0.7")))
    site.add("teacher", "zzz", DETECT.format(CLAIM.replace("0.9", "0.95")))
    site.add("teacher", "mmm", DETECT.format(CLAIM))
    assert Plugins().detect(llama).plugin == "zzz"


def test_two_packs_for_one_capability_are_an_error_that_names_both(site):
    body = "@hookimpl\ndef capability_metric(name):\n    from nexus_capability_one.m import M\n    return M()\n"
    metric = "from nexus_core.types import *\nclass M(CapabilityMetric):\n    name = 'shared'\n"
    metric += "    def samples(self, request): return iter(())\n    def score(self, sample, output): return 0.0\n"
    site.add("capability", "one", HEAD + body, files={"m.py": metric})
    site.add("capability", "two", HEAD + body)
    with pytest.raises(
        PluginError, match=r"plugins (one and two|two and one) both answer capability_metric for shared"
    ):
        Plugins(["one", "two"]).capability_metric("shared")
    assert Plugins(["two"]).capability_metric("shared").name == "shared"


def test_two_towers_for_one_modality_are_an_error_that_names_both(site):
    for name in ("one", "two"):
        site.add("tower", name, f"{HEAD}@hookimpl\ndef decode(modality): return modality\n")
    with pytest.raises(PluginError, match="both answer decode for smell"):
        Plugins(["one", "two"]).decode("smell", b"")


def test_a_broken_detector_stops_nobody_who_knows_better(site, llama, caplog, monkeypatch):
    site.add("teacher", "broken", DETECT.format("1 / 0"))
    assert Plugins(["broken", "transformers"][1:]).detect(llama).plugin == "transformers"
    assert Plugins().detect(llama).plugin == "transformers"
    assert "plugin broken, hook detect_model_category: ZeroDivisionError" in caplog.text
    with pytest.raises(PluginError, match="plugin broken"):
        Plugins(["broken", "transformers"]).detect(llama)
    monkeypatch.setenv("NEXUS_STRICT", "1")
    with pytest.raises(PluginError):
        Plugins().detect(llama)


def test_damage_that_one_plugin_reports_does_not_hide_the_claim_of_another(site, tmp_path):
    """A layout may be damaged in the eyes of one plugin and sound in those of another."""
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config.json: holds a list, expected an object"):
        Plugins(["transformers"]).detect(ModelSource(tmp_path))
    site.add("teacher", "probe", DETECT.format(CLAIM))
    assert Plugins(["transformers", "probe"]).detect(ModelSource(tmp_path)).plugin == "probe"


def test_nobody_knows_it(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no teacher plugin recognises this \(it holds weights.bin\)"):
        Plugins(["transformers"]).detect(ModelSource(tmp_path))
    with pytest.raises(ModelError, match="no such file"):
        Plugins(["transformers"]).detect(ModelSource(tmp_path / "absent"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match="an empty directory"):
        Plugins(["transformers"]).detect(ModelSource(empty))


def test_a_plugin_that_only_detects_is_named(site, llama):
    site.add("teacher", "probe", DETECT.format(CLAIM))
    with pytest.raises(ModelError, match=r"plugin probe recognises it .* but does not load it"):
        Plugins(["probe"]).load_teacher(llama)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: p.capability_metric("reasonin"), "capability 'reasonin': no installed plugin provides it"),
        (lambda p: p.build_adapter(AdapterPlan("x", "smell", 8, 2)), "no tower plugin builds an adapter for .*smell"),
        (lambda p: p.decode("smell", b""), "no tower plugin decodes 'smell'"),
    ],
)
def test_no_answer_is_an_error_that_says_what_was_asked(call, said):
    with pytest.raises(PluginError, match=said) as caught:
        call(Plugins(["reasoning", "text"]))
    assert caught.value.hint
    if "reasonin" in said:
        assert "did you mean 'reasoning'" in caught.value.hint
