"""The trainer, on a model that takes a second."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from nexus_teacher_zoo.cards import read_card
from nexus_teacher_zoo.recipes import corpus, text
from nexus_teacher_zoo.recipes.__main__ import main
from nexus_teacher_zoo.recipes.card import provenance, refreshed, write_card
from nexus_teacher_zoo.recipes.control import baseline_scores, memorisation_control, name_alone
from nexus_teacher_zoo.recipes.corpus import REPEAT_WIDTHS, CorpusBatches, corpus_texts, documents
from nexus_teacher_zoo.recipes.evaluate import interval_again, score_of
from nexus_teacher_zoo.recipes.recipe import Recipe, Stage, TokenizerSpec, Training, load_recipe, recipe_names
from nexus_teacher_zoo.recipes.text import TaskBatches, capability_of, task_texts, train_tokenizer
from nexus_teacher_zoo.recipes.train import Run, Stream, build_model, fit, learning_rate, loss_of, save, train

from nexus_core.errors import DataError
from nexus_core.stats import score_interval
from nexus_core.types import SampleRequest, Split

TINY = Recipe(
    name="tiny",
    task="a test",
    data="a test",
    config="LlamaConfig",
    kwargs={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    capability="reasoning",
    verify_samples=8,
    control_samples=50,
    tokenizer=TokenizerSpec(vocab_size=400, train_samples=200),
    training=Training(steps=12, batch_tokens=512, pool=64, lr=1e-2, warmup=2, log_every=6, eval_every=100),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the recipes train; more threads only wait for each other on models of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def prepared(recipe: Recipe) -> TaskBatches:
    metric = capability_of(str(recipe.capability))
    return TaskBatches(metric, train_tokenizer(recipe.tokenizer, task_texts(metric, recipe)), recipe)


def trained(out: Path) -> str:
    source = prepared(TINY)
    model = build_model(TINY, source.tokenizer)
    model, steps, _ = fit(TINY, Run(out), model, source.tokenizer, Stream(source, ()))
    assert steps == 12
    save(model, source.tokenizer, out)
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def test_training_repeats_to_the_byte_and_replaces_the_old_checkpoint(tmp_path: Path) -> None:
    first = trained(tmp_path / "tiny")
    (tmp_path / "tiny" / "stale").write_text("x", "utf-8")
    assert trained(tmp_path / "tiny") == first
    assert not (tmp_path / "tiny" / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_second_round_starts_from_the_first_and_says_so(tmp_path: Path) -> None:
    first = trained(tmp_path / "tiny")
    write_card(TINY, tmp_path / "tiny", provenance(TINY, 12, 0.5))
    train(TINY, Run(tmp_path / "tiny", polish=(3, 1e-3)))
    card = read_card(tmp_path / "tiny")
    both = replace(TINY, training=replace(TINY.training, polish_steps=3, polish_lr=1e-3))
    train(both, Run(tmp_path / "both"))
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("tiny", "both"))
    assert one == two  # the recipe's own second round is the same as one asked for afterwards
    assert card is not None and card["made_by"]["steps"] == 15 and "--polish 3 --lr 0.001" in card["made_by"]["command"]
    assert hashlib.sha256((tmp_path / "tiny" / "model.safetensors").read_bytes()).hexdigest() != first


def test_training_lowers_the_loss() -> None:
    source = prepared(TINY)
    batch = next(source.batches(Stage()))
    model = build_model(TINY, source.tokenizer)
    before = loss_of(model, batch, "cpu").item()
    model, _, _ = fit(TINY, Run(Path()), model, source.tokenizer, Stream(source, ()))
    assert loss_of(model, batch, "cpu").item() < before - 0.5


def test_batches_weigh_answers_prompts_and_padding() -> None:
    source = prepared(TINY)
    batch = next(source.batches(Stage()))
    assert batch.ids.shape == batch.weights.shape and batch.ids.numel() <= 512
    padding = batch.ids == source.tokenizer.pad_token_id
    assert set(batch.weights[padding].tolist()) <= {0.0}
    assert {round(w, 3) for w in batch.weights[~padding].tolist()} == {0.1, 1.0}
    ends = (batch.ids == source.tokenizer.eos_token_id).sum(1)
    assert ends.tolist() == [1] * len(ends)


def test_stages_filter_and_then_end() -> None:
    source = prepared(TINY)
    pool = next(source.pools(Stage(strata=("2 steps",), max_chars=200)))
    assert {s.stratum for s in pool} == {"2 steps"} and max(len(s.prompt) for s in pool) <= 200
    stream = Stream(source, (Stage(until=0.5, strata=("2 steps",)),))
    stream.next(0.1)
    assert stream.current == Stage(until=0.5, strata=("2 steps",))
    stream.next(0.6)
    assert stream.current == Stage()


def test_long_samples_are_left_out_and_counted() -> None:
    source = prepared(replace(TINY, training=replace(TINY.training, max_tokens=110)))
    next(source.batches(Stage()))
    assert source.skipped > 0


def test_learning_rate_warms_up_and_decays() -> None:
    assert learning_rate(TINY, 0, 0.0) == pytest.approx(0.5e-2)
    assert learning_rate(TINY, 5, 0.5) == pytest.approx(1e-2 * (0.02 + 0.98 / 2))
    assert learning_rate(TINY, 11, 1.0) == pytest.approx(1e-2 * 0.02)


@pytest.mark.parametrize("split", [True, False])
def test_tokenizers_lose_nothing(split: bool) -> None:
    tokenizer = train_tokenizer(
        TokenizerSpec(vocab_size=500, split_digits=split), ["a man has 12 apples and 12 pears"] * 5
    )
    text = "Zoë has 1234 äpples,\n\tand\0 12 <|end|>?"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert (len(tokenizer("12").input_ids) == 2) is split


def test_the_memory_control_can_succeed_and_does_not() -> None:
    metric = capability_of("reasoning")
    assert memorisation_control(metric, SampleRequest(Split.TRAIN, 30), 100)["value"] == 1.0
    assert memorisation_control(metric, SampleRequest(Split.VERIFY, 200), 1000)["value"] < 0.1
    assert baseline_scores(metric, SampleRequest(Split.VERIFY, 200))["random"]["value"] < 0.1


def test_the_interval_is_that_of_nexus_eval() -> None:
    metric = capability_of("reasoning")
    scores = [1.0] * 40 + [0.0] * 10
    found = score_of(metric, [], scores, seed=42)
    assert found.value == 0.8 and found.n == 50
    assert found.ci95 == tuple(round(bound, 4) for bound in score_interval(metric, [], scores, 42))
    assert interval_again(metric, 0.8, 50) == found.ci95
    assert interval_again(metric, 1.0, 500) == (0.9926, 1.0)  # Clopper-Pearson
    with pytest.raises(AssertionError, match="no share"):
        interval_again(metric, 0.813, 50)


def test_a_time_limit_and_both_seeds_stand_on_the_card(tmp_path: Path) -> None:
    free, limited = provenance(TINY, 7, 0.5), provenance(TINY, 7, 0.5, limit=2.5)
    assert free["command"].endswith("train tiny --steps 7") and limited["command"].endswith("--steps 12 --minutes 2.5")
    trained(tmp_path / "tiny")
    write_card(TINY, tmp_path / "tiny", limited)
    train(TINY, Run(tmp_path / "tiny", minutes=9, polish=(1, 1e-3)))
    made = (read_card(tmp_path / "tiny") or {})["made_by"]
    assert (made["seed"], made["polish_seed"]) == (42, 43)
    assert made["command"].endswith("--minutes 2.5; then the same with --polish 1 --lr 0.001 --minutes 9")


def test_controls_are_measured_again_without_the_model() -> None:
    recipe = replace(TINY, control_note="read with care")
    old = {"id": "zoo-tiny", "held_out": {"value": 0.5, "n": 10, "ci95": [0.0, 0.0], "split": "verify"}}
    held = refreshed(recipe, old)["held_out"]
    assert held["memorisation_control"]["note"] == "read with care" and held["baselines"]
    assert held["value"] == 0.5 and held["ci95"] == list(interval_again(capability_of("reasoning"), 0.5, 10))


def test_a_remembered_tool_name_counts_by_itself() -> None:
    calls = ['{"name": "a", "arguments": {"x": 1}}', '{"name": "b", "arguments": {}}']
    assert name_alone(calls, ['{"name": "a", "arguments": {"x": 2}}', calls[0]]) == {"tool_name_alone": 0.5}
    assert name_alone(calls, ["", "[1]"]) == {"tool_name_alone": 0.0} and name_alone(["#### 4"], ["#### 4"]) == {}


def test_the_corpus_is_stable_and_its_held_out_part_apart() -> None:
    names = [name for name, _ in documents()]
    libraries, topics = [n for n in names if n.endswith(".py")], [n for n in names if n.startswith("topic ")]
    assert libraries == sorted(libraries) and len(libraries) > 300 and topics == sorted(topics) and len(topics) > 50
    train, held = set(corpus_texts(held_out=False)), set(corpus_texts(held_out=True))
    assert len(held) > 10 and not train & held


def repeating(**changes: object) -> CorpusBatches:
    """Batches of the corpus for a tokenizer of bytes."""
    recipe = replace(
        TINY, capability=None, training=replace(TINY.training, batch_tokens=4096, max_tokens=256, **changes)
    )
    return CorpusBatches(train_tokenizer(recipe.tokenizer, ["a b c d e"] * 5), recipe)


def test_only_what_can_be_copied_weighs_in_a_row_of_repeats() -> None:
    """Wherever a token weighs, the one before it and it stand side by side in the first half too."""
    widths = set()
    for batch in itertools.islice(repeating(repeats=1.0).batches(Stage()), 12):
        rows, width = batch.ids.shape
        widths.add(width)
        assert rows * width == 4096 and batch.weights.shape == batch.ids.shape
        assert int(batch.ids.min()) >= 4, "no special token is ever said"
        assert set(batch.weights.unique().tolist()) == {0.0, 1.0}
        assert not batch.weights[:, : width // 2 + 1].any()
        for row, weight in zip(batch.ids.tolist(), batch.weights.tolist(), strict=True):
            known = set(itertools.pairwise(row[: width // 2]))
            assert all((row[t - 1], row[t]) in known for t in range(1, width) if weight[t])
        assert batch.weights[:, width // 2 :].mean() > 0.7, "nearly all of the second half is a repeat"
    assert len(widths) > 2 and widths <= set(REPEAT_WIDTHS)


def test_repeats_are_a_share_of_the_batches_and_repeat_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    some_text = ["a few words of a document. " * 50] * 60
    monkeypatch.setattr(corpus, "corpus_texts", lambda held_out: iter(some_text))

    def first(n: int, share: float) -> list[torch.Tensor]:
        return [batch.weights for batch in itertools.islice(repeating(repeats=share).batches(Stage()), n)]

    assert all(bool(weights.all()) for weights in first(8, 0.0)), "text alone: every token weighs"
    some = first(60, 0.5)
    assert 15 < sum(not bool(weights.all()) for weights in some) < 45
    assert all(torch.equal(one, other) for one, other in zip(some, first(60, 0.5), strict=True))


def test_a_backbones_tokenizer_sees_the_tasks_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "TASK_CHARACTERS", 5000)
    library = [f"document {i} of the library, which holds no task at all. " * 4 for i in range(60)]
    plain, named = (
        replace(TINY, tokenizer=replace(TINY.tokenizer, tasks=tasks)) for tasks in ((), ("reasoning", "tools"))
    )
    assert list(text.tokenizer_texts(plain, iter(library))) == library
    texts = list(text.tokenizer_texts(named, iter(library)))
    assert texts == list(text.tokenizer_texts(named, iter(library)))
    of_corpus = [one for one in texts if one in library]
    assert 4000 < sum(map(len, of_corpus)) <= 5000 and of_corpus != library[: len(of_corpus)], (
        "not the first of an alphabet"
    )
    for name in ("reasoning", "tools"):
        trained = list(itertools.islice(task_texts(capability_of(name), named), 2000))
        found = [one for one in texts if one in set(trained)]
        assert 2500 < sum(map(len, found)) <= 5000
    asked = next(capability_of("tools").samples(SampleRequest(Split.VERIFY, 1))).target
    sizes = [
        len(train_tokenizer(recipe.tokenizer, text.tokenizer_texts(recipe, library))(asked).input_ids)
        for recipe in (named, plain)
    ]
    assert sizes[0] < 0.7 * sizes[1]


def test_the_backbones_tasks_are_capabilities() -> None:
    tasks = load_recipe("backbone").tokenizer.tasks
    assert isinstance(tasks, tuple) and len(tasks) > 3
    assert [capability_of(name).name for name in tasks] == list(tasks)


def test_recipes_are_read_whole(tmp_path: Path) -> None:
    assert {"reasoning", "backbone"} <= set(recipe_names())
    for name in recipe_names():
        assert load_recipe(name).name == name and load_recipe(name).seed == 42
    path = tmp_path / "bad.yaml"
    path.write_text("task: x\ntraining: {stepz: 3}\n", "utf-8")
    with pytest.raises(DataError, match="unknown key 'stepz'"):
        load_recipe(str(path))
    with pytest.raises(DataError, match="no recipe 'nothing'"):
        load_recipe("nothing")


def test_commands() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0 and all(word in result.output for word in ("train", "all", "card"))
