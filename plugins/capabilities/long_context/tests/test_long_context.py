"""The pack's own samples: facts in long texts, disjoint splits, lengths as promised, nothing to remember."""

import itertools
import re
import subprocess
import sys

from nexus_capability_long_context.generator import DOCUMENTS, FACTS, STRATA, count_tokens, split_of
from nexus_capability_long_context.metric import LongContext, by_stratum

from nexus_core.types import Direction, Sample, SampleRequest, Split

METRIC = LongContext()


def samples(split: Split, n: int = 300, seed: int = 42) -> list[Sample]:
    return list(METRIC.samples(SampleRequest(split, n, seed)))


def subject_of(sample: Sample) -> str:
    found = re.search(r"of (\w+)\?\nAnswer:$", sample.prompt)
    assert found is not None
    return found[1]


def test_the_hook_answers_for_its_own_name_only_and_the_plugin_is_light() -> None:
    program = (
        "import sys; from nexus_capability_long_context import plugin;"
        "assert plugin.capability_metric('math') is None;"
        "assert 'torch' not in sys.modules and 'nexus_capability_long_context.metric' not in sys.modules;"
        "assert plugin.capability_metric('long_context').metric == 'exact_answer'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert METRIC.direction is Direction.HIGHER


def test_splits_are_disjoint_by_digest_and_by_every_subject_in_the_text() -> None:
    drawn = {split: samples(split) for split in Split}
    for split, group in drawn.items():
        assert {split_of(subject_of(sample)) for sample in group} == {split}
        named = {name for sample in group for name in re.findall(r"(?: of |File )([A-Z]\w+)", sample.prompt)}
        assert {split_of(name) for name in named} == {split}
    for left, right in itertools.combinations(Split, 2):
        assert not {s.digest for s in drawn[left]} & {s.digest for s in drawn[right]}


def test_order_depends_on_the_seed_alone_and_train_is_endless() -> None:
    assert samples(Split.VERIFY, 30) == samples(Split.VERIFY, 40)[:30]
    assert samples(Split.VERIFY, 30) != samples(Split.VERIFY, 30, seed=7)
    endless = METRIC.samples(SampleRequest(Split.TRAIN))
    assert len(list(itertools.islice(endless, 3000))) == 3000


def test_lengths_are_what_their_stratum_says() -> None:
    drawn = samples(Split.VERIFY)
    assert {sample.stratum for sample in drawn} == set(STRATA)
    for sample in drawn:
        if sample.stratum != DOCUMENTS:
            assert -5 <= count_tokens(sample.prompt) - int(sample.stratum) <= 15  # the last sentence may run over


def test_the_answer_stands_once_beside_its_subject_among_competing_facts_at_every_depth() -> None:
    depths = []
    for sample in samples(Split.VERIFY):
        answer = sample.meta["answers"][0]
        text = sample.prompt.partition("\nQuestion:")[0]
        facts = re.findall(r"[Tt]he [\w ]+? (?:of \w+ )?is (\w+)\.", text)
        if sample.stratum == DOCUMENTS:
            own = next(line for line in text.split("\n") if line.startswith(f"File {subject_of(sample)}: "))
            assert f" is {answer}." in own
            assert len(facts) >= 3
        else:
            assert text.count(sample.target) == 1
            assert len(re.findall(rf"\b{subject_of(sample)}\b", text)) == 1
            assert len(facts) >= FACTS[int(sample.stratum)]
        depths.append(sample.meta["depth"])
    assert min(depths) < 0.05
    assert max(depths) > 0.95
    assert 0.4 < sum(depths) / len(depths) < 0.6


def test_reference_answers_score_one_in_both_forms() -> None:
    for sample in samples(Split.PROFILE, 100):
        answer = sample.meta["answers"][0]
        forms = [sample.target, answer, f" {answer.upper()}.\n\nBecause it says so.", f"I think it is {answer}"]
        assert [METRIC.score(sample, form) for form in forms] == [1.0] * len(forms)


def test_wrong_and_hostile_outputs_score_zero() -> None:
    for sample in samples(Split.VERIFY, 60):
        answer, text = sample.meta["answers"][0], sample.prompt
        every_value = " ".join(re.findall(r"is (\w+)\.", text))
        wrong = [
            "",
            " ",
            "\n\n",
            "is",
            "is is is",
            answer + "0",
            answer[:-1],
            text,
            every_value,
            f"{answer} or {answer}1",
        ]
        wrong += [f"not sure\n{answer}", f"{answer} {answer}", "9" * 1_000_000, "is " * 500_000, "\0", "\ud800"]
        assert [output[:50] for output in wrong if METRIC.score(sample, output)] == []
        assert [METRIC.score(sample, output) for output in (None, 7, answer.encode(), [answer])] == [0.0] * 4


def test_score_by_length() -> None:
    drawn = samples(Split.VERIFY, 100)
    table = by_stratum(drawn, [float(sample.stratum == "256") for sample in drawn])
    assert list(table) == ["128", "256", "512", "1024", DOCUMENTS]
    assert {name: entry.score for name, entry in table.items() if entry.score} == {"256": 1.0}
    assert sum(entry.n for entry in table.values()) == 100


def test_neither_chance_nor_memory_solves_it() -> None:
    request = SampleRequest(Split.VERIFY, 200)
    drawn = list(METRIC.samples(request))
    outputs = METRIC.baselines(request)
    score = {name: METRIC.aggregate(drawn, METRIC.score_all(drawn, answers)) for name, answers in outputs.items()}
    assert score.keys() == {"random", "guess", "majority", "nearest"}
    assert max(score["random"], score["majority"], score["nearest"]) <= 0.03
    assert 0.02 < score["guess"] < 0.25  # one of the competing facts


def test_the_drill_asks_for_several_facts_and_stays_within_its_split() -> None:
    drawn = {split: list(METRIC.samples(SampleRequest(split, 50, data="drill"))) for split in Split}
    for split, group in drawn.items():
        for sample in group:
            stated = re.findall(r"The [\w ]+ of (\w+) is \w+\.|File (\w+): ", sample.prompt)
            facts = ["".join(names) for names in stated]
            asked = re.findall(r"of (\w+)\?\nAnswer:", sample.prompt + sample.target)
            assert len(set(asked)) == len(asked) == min(8, len(facts))
            assert set(asked) <= set(facts)
            assert {split_of(name) for name in facts} == {split}
            assert METRIC.score(sample, sample.target) == 1.0
            assert METRIC.score(sample, sample.target.partition("\n")[2]) == 0.0
