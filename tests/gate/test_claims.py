"""What is measured by what: a claim that cannot be measured fails, and says which command would measure it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nexus_core.cli.context import open_plugins, open_registry
from nexus_core.errors import DataError, NexusError
from nexus_core.gate.claims import Claims
from nexus_core.profiling.artifacts import ProfileStore


@pytest.fixture
def store(world) -> ProfileStore:
    return ProfileStore(world.run / "niwt_stage2_output")


@pytest.fixture
def read(world, made):
    def read(name: str = "letters", samples: int = made.SAMPLES):
        return Claims(world.run, open_registry(), open_plugins(), samples).read(made.arch(name).adapters[0])

    return read


def test_a_claim_has_a_teachers_score_for_each_sample(read, store) -> None:
    claim = read()
    reference = store.reference("ada", "letters")
    assert claim.teacher_scores == reference.scores and len(claim.samples) == 40
    assert claim.weights == reference.weights_hash and claim.contract.retain_fraction == 0.97


def test_fewer_samples_are_the_first_of_those_that_the_teacher_answered(read) -> None:
    few, all_of_them = read(samples=7), read()
    assert few.samples == all_of_them.samples[:7] and few.teacher_scores == all_of_them.teacher_scores[:7]


def test_more_samples_than_the_teacher_was_asked_have_no_reference(read) -> None:
    with pytest.raises(DataError, match="scored on 40 samples, and the gate asks 50") as error:
        read(samples=50)
    assert "--reference-only" in error.value.hint


def test_all_samples_that_there_are_do_for_more(read, store) -> None:
    """As with a benchmark of 164 problems and a registry that asks for 500: the split has 576."""
    reference = store.reference("ada", "letters")
    claims = read()
    whole = list(claims.metric.samples(replace(claims.request, n=None)))
    store.write_reference(
        replace(
            reference,
            n=len(whole),
            scores=(1.0,) * len(whole),
            sample_digest_sha256=claim_digest(whole),
        )
    )
    assert len(read(samples=10_000).samples) == len(whole) == 576


def claim_digest(samples) -> str:
    from nexus_core.profiling.reference import sample_digest

    return sample_digest(samples)


def test_no_reference_names_the_command_that_measures_it(read, world) -> None:
    (world.run / "niwt_stage2_output/profiles/ada/letters/verify_scores.json").unlink()
    with pytest.raises(NexusError) as error:
        read()
    assert "verify_scores.json" in f"{error.value.message} {error.value.hint}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "accuracy"}, "scores are of the metric accuracy, and the contract's is exact"),
        ({"data": "gsm8k"}, "scores are of the data gsm8k, and the contract's is None"),
        ({"seed": 7}, "the teacher was asked other samples"),
        ({"sample_digest_sha256": "0" * 64}, "the teacher was asked other samples"),
    ],
)
def test_scores_of_something_else_are_no_reference(read, store, changes, message) -> None:
    store.write_reference(replace(store.reference("ada", "letters"), **changes))
    with pytest.raises(DataError, match=message):
        read()


def test_an_edited_reference_is_refused(read, world) -> None:
    path = world.run / "niwt_stage2_output/profiles/ada/letters/verify_scores.json"
    path.write_text(path.read_text().replace('"score": 1.0', '"score": 0.1'))
    with pytest.raises(NexusError, match=r"changed|damaged|hash|differs"):
        read()


def test_a_pack_that_measures_something_else_is_no_measure(read, world) -> None:
    text = world.registry.read_text()
    other = world.run / "registry.yaml"
    other.write_text(text.replace("metric: exact, direction: higher", "metric: accuracy, direction: higher"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXUS_REGISTRY", str(other))
        with pytest.raises(
            DataError, match="the contract's metric is accuracy, and the capability's pack measures exact"
        ):
            read()
