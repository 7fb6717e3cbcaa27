"""What the zoo ships: every checkpoint loads whole, is small, and has a card that can be believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from nexus_teacher_zoo import plugin
from nexus_teacher_zoo.cards import read_card
from nexus_teacher_zoo.recipes.evaluate import interval_again, score_teacher
from nexus_teacher_zoo.recipes.recipe import WEIGHTS, load_recipe
from nexus_teacher_zoo.recipes.text import capability_of

from nexus_core.errors import ModelError
from nexus_core.plugins import Plugins
from nexus_core.types import GenerateOptions, LoadOptions, ModelSource, Sample, SampleRequest, Split

SHIPPED = sorted(path.parent for path in WEIGHTS.glob("*/card.yaml"))
TEACHERS = [path for path in SHIPPED if path.name != "backbone"]
FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "card.yaml",
}


def name_of(path: Path) -> str:
    return path.name


def test_the_zoo_ships_what_it_promises() -> None:
    assert {"reasoning", "code", "tools", "long_context", "backbone"} <= {path.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_files(path: Path) -> None:
    assert {file.name for file in path.iterdir()} == FILES
    assert sum(file.stat().st_size for file in path.iterdir()) < 8 << 20


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_loads_whole_through_the_zoo(path: Path) -> None:
    plugins = Plugins()
    claim = plugins.detect(ModelSource(path))
    assert claim.plugin == "zoo"
    teacher = plugins.load_teacher(ModelSource(path), LoadOptions())
    card = read_card(path)
    assert card is not None and teacher.unused == ()
    tied = teacher.model.config.tie_word_embeddings
    assert sum(p.numel() for p in teacher.model.parameters()) == card["parameters"], f"tied: {tied}"
    answers = teacher.generate([Sample("a", "How many?", "")], GenerateOptions(max_new_tokens=4))
    assert len(answers) == 1 and isinstance(answers[0], str)


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_chat_template_is_the_format_of_training(path: Path) -> None:
    from nexus_teacher_zoo.recipes.text import ASSISTANT, END, USER
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    messages = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == f"{USER}1 + 1?{ASSISTANT}2{END}"
    asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert asked == f"{USER}1 + 1?{ASSISTANT}"
    assert tokenizer.eos_token == END and tokenizer.decode(tokenizer("3 apples, ä\n").input_ids) == "3 apples, ä\n"


@pytest.mark.parametrize("path", TEACHERS, ids=name_of)
def test_card_of_a_teacher(path: Path) -> None:
    card = read_card(path)
    assert card is not None and card["id"] == f"zoo-{path.name}" and card["license"] == "MIT"
    held = card["held_out"]
    assert held["split"] == "verify" and held["n"] >= 500 and held["value"] >= 0.90
    assert held["ci95"] == list(interval_again(capability_of(held["capability"]), held["value"], held["n"]))
    assert held["memorisation_control"]["value"] < 0.25 and held["memorisation_control"]["train_prompts"] >= 5000
    assert all(baseline["value"] < 0.5 for baseline in held["baselines"].values())
    made, recipe = card["made_by"], load_recipe(path.name)
    assert held["memorisation_control"].get("note") == recipe.control_note
    assert made["seed"] == recipe.seed == 42 and path.name in made["command"]
    assert made.get("polish_seed") == (43 if "--polish" in made["command"] or recipe.training.polish_steps else None)


def test_the_backbone_knows_no_task() -> None:
    card = read_card(WEIGHTS / "backbone")
    assert card is not None and card["held_out"]["nats_per_byte"] < 1.2
    for name, found in card["capabilities"].items():
        chance = max(baseline["value"] for baseline in found["baselines"].values())
        assert found["ci95"] == list(interval_again(capability_of(name), found["value"], found["n"]))
        assert found["ci95"][0] <= chance + 0.02, f"the backbone can do {name}: {found['value']}"


@pytest.mark.slow
@pytest.mark.parametrize("path", TEACHERS, ids=name_of)
def test_the_cards_figure_is_reproduced(path: Path) -> None:
    card = read_card(path)
    assert card is not None
    plugins = Plugins()
    metric = plugins.capability_metric(card["held_out"]["capability"])
    teacher = plugins.load_teacher(ModelSource(path), LoadOptions())
    found = score_teacher(teacher, metric, SampleRequest(Split.VERIFY, n=50))
    low, high = card["held_out"]["ci95"]
    assert found.ci95[0] <= high and found.ci95[1] >= low and found.value >= low - 0.08


def test_other_directories_are_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    assert Plugins().detect(ModelSource(tmp_path)).plugin != "zoo"
    (tmp_path / "card.yaml").write_text("id: somebody-else\n", "utf-8")
    assert Plugins().detect(ModelSource(tmp_path)).plugin != "zoo"


@pytest.mark.parametrize("card", ["id: [", "\x00"])
def test_a_damaged_card_is_named(tmp_path: Path, card: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    (tmp_path / "card.yaml").write_text(card, "utf-8")
    with pytest.raises(ModelError, match=r"card\.yaml"):
        plugin.detect_model_category(ModelSource(tmp_path))
