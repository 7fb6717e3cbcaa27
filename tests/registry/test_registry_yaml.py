"""The registry.yaml that ships: complete, sound, and the only place of its numbers."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import nexus_core
from nexus_core.registry import Registry, load_registry, resolve_path
from nexus_core.resources import shared_path
from nexus_core.types import Direction, Thresholds

CSV_NAMES = [
    "AgentCPM-Explore",
    "google_gemma-scope-2-27b-pt",
    "stepfun-ai_Step3-VL-10B",
    "microsoft_VibeVoice-ASR",
    "nvidia_personaplex-7b-v1",
    "zai-org/GLM-4.7-Flash",
    "parakeet-tdt-0.6b-v3",
    "Qwen_Qwen3-TTS-12Hz-1.7B-CustomVoice",
    "Qwen_Qwen3-TTS-12Hz-1.7B-VoiceDesign",
    "stabilityai_stable-diffusion-3-medium-diffusers",
    "stabilityai_stable-video-diffusion-img2vid-xt-1-1",
    "Qwen_Qwen3-TTS-Tokenizer-12Hz",
    "siglip2-so400m-patch16-512",
    "MCG-NJU_videomae-large",
]
CAPABILITIES = {
    *("general", "reasoning", "cot", "thinking", "math"),
    *("code", "tools", "long_context", "translation", "remotion"),
    *("asr", "voice", "emotion", "podcast"),
    *("vision_qa", "image_classification", "image_embedding", "video_understanding"),
    *("image_generation", "video_generation", "streaming", "tri_streaming", "omni"),
    *("long_horizon_reasoning", "planning_depth", "uncensored"),
}
# The thirteen names of the older registry, then the names in the bundle's layout.
OLDER_NAMES = [
    *("tool-calling", "cot", "reasoning", "thinking", "streaming", "podcast", "tri-streaming", "vision-qa"),
    *("video-understanding", "omni", "image-generation", "video-generation", "remotion-explainer"),
    *("code", "long_context", "agent", "voice", "uncensored", "translation", "asr"),
]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry(shared_path("registry.yaml"))


def test_every_teacher_of_the_csv_stands_once_and_kimi_beside_them(registry: Registry) -> None:
    names = [row.name for row in registry.teachers.values()]
    assert names == [*CSV_NAMES, "Kimi-K2.5"]


def test_every_capability_is_listed(registry: Registry) -> None:
    assert set(registry.capabilities) == CAPABILITIES


@pytest.mark.parametrize("name", OLDER_NAMES)
def test_every_older_name_finds_its_capability(registry: Registry, name: str) -> None:
    assert registry.capability(name).id in CAPABILITIES


def test_each_teacher_has_a_tower_and_each_of_its_capabilities_a_contract(registry: Registry) -> None:
    for teacher in registry.teachers.values():
        assert teacher.tower in registry.towers
        assert teacher.capabilities or teacher.role == "interpretability"
        for capability in teacher.capabilities:
            contract = registry.contract(capability, teacher.id)
            assert contract.retain_fraction is not None or contract.minimum is not None


def test_contracts_say_what_the_specification_says(registry: Registry) -> None:
    math = registry.contract("math")
    assert (math.retain_fraction, math.minimum, math.tier, math.rank_cap) == (0.97, None, 1, 512)
    assert math.thresholds == Thresholds(non_negotiable=0.02, recoverable=0.005)
    asr = registry.contract("asr")
    assert (asr.direction, asr.retain_fraction, asr.rank_cap) == (Direction.LOWER, 1.03, 1024)
    voice = registry.contract("voice")
    assert (voice.retain_fraction, voice.minimum) == (0.97, 0.85)
    assert voice.thresholds == Thresholds(non_negotiable=0.03, recoverable=0.01)
    assert registry.contract("image_generation").retain_fraction == 0.95


def test_a_teacher_may_change_a_contract(registry: Registry) -> None:
    own = registry.contract("code", "zai-org-glm-4.7-flash")
    assert (own.benchmark, own.retain_fraction) == ("humaneval", 0.95)
    assert (registry.contract("code").benchmark, registry.contract("code").retain_fraction) == ("pack", 0.97)
    assert own.metric == registry.contract("code").metric


def test_kimi_is_a_refinement_teacher_measured_against_the_student(registry: Registry) -> None:
    kimi = registry.teacher("kimi-k2.5")
    assert (kimi.refinement, kimi.mode) == (True, "streamed")
    horizon = registry.contract("long_horizon_reasoning", kimi.id)
    planning = registry.contract("planning_depth", kimi.id)
    assert (horizon.retain_fraction, horizon.relative_to, horizon.rank_cap) == (0.90, "student_baseline", 256)
    assert (planning.retain_fraction, planning.relative_to, planning.rank_cap) == (0.92, "student_baseline", 256)


def test_only_uncensored_is_isolated(registry: Registry) -> None:
    assert [row.id for row in registry.capabilities.values() if row.isolated] == ["uncensored"]


def test_towers_have_the_bounds_of_the_specification(registry: Registry) -> None:
    bounds = {name: registry.tower(name).latent_max for name in ("text", "voice", "vision", "video")}
    assert bounds == {"text": 8192, "voice": 2048, "vision": 4096, "video": 4096}


def test_profiling_measures_as_the_specification_says(registry: Registry) -> None:
    settings = registry.profiling
    assert dict(settings.sample_sizes) == {"debug": 50, "standard": 500, "production": 5000}
    assert (settings.samples, settings.pilot_samples, settings.verify_samples, settings.layers) == (200, 20, 50, 3)
    assert (settings.components_most, settings.components_middle, settings.components_tested) == (128, 64, 20)
    assert (settings.variance_fraction, settings.reconstruction_max_drop) == (0.97, 0.01)
    assert (settings.loss_weight_least, settings.loss_weight_most) == (5, 10)
    assert 0 < settings.overlap_heavy <= 1


def test_no_teacher_claims_to_be_present(registry: Registry) -> None:
    for teacher in registry.teachers.values():
        presence = resolve_path(teacher)
        assert not presence.present
        assert "set `path:`" in presence.reason


def _numbers(path: Path) -> set[float]:
    tree = ast.parse(path.read_text("utf-8"))
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, float)}


def test_no_threshold_is_repeated_in_the_code_that_reads_them() -> None:
    thresholds = {0.97, 1.03, 0.95, 0.85, 0.9, 0.92, 0.02, 0.005, 0.03, 0.01, 0.08}
    package = Path(nexus_core.__file__).parent
    for path in sorted((package / "registry").rglob("*.py")):
        assert not _numbers(path) & thresholds, path
    schema = (package / "registry" / "schema.json").read_text("utf-8")
    assert not re.search(r'"default"|0\.\d', schema)
