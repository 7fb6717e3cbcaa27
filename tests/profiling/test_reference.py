"""The teacher's scores on the verify split: measured by the real teacher, bound to its samples and to its weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nexus_core.errors import DataError, UsageError
from nexus_core.evaluation import evaluate
from nexus_core.profiling.artifacts import ArtifactError, FindingKind, ProfileStore
from nexus_core.profiling.artifacts.manifest import Entry
from nexus_core.profiling.artifacts.scores import decode_reference, encode_reference
from nexus_core.profiling.model import CapabilityProfile
from nexus_core.profiling.plan import PlanSettings, plan_capability
from nexus_core.profiling.reference import (
    Reference,
    gate_request,
    is_current,
    measure_reference,
    read_reference,
    sample_digest,
)
from nexus_core.profiling.run import weights_hash
from nexus_core.types import Contract, Direction, SampleRequest, Split, Thresholds

REQUEST = SampleRequest(Split.VERIFY, 12, seed=3)
FILE = "verify_scores.json"


@pytest.fixture
def store(tmp_path, one_planted, lookup) -> ProfileStore:
    """A run in which the planted teacher was profiled, with nothing found: its scores do not depend on that."""
    store = ProfileStore(tmp_path / "run" / "niwt_stage2_output")
    put(store, bare(one_planted, lookup))
    return store


def bare(planted, metric) -> CapabilityProfile:
    teacher, weights = planted.teacher.source.teacher_id, weights_hash(planted.teacher)
    return CapabilityProfile(teacher, weights, metric.name, metric.metric, metric.direction, 1.0, 12, 42, 0.5, ())


def put(store, profile) -> None:
    contract = Contract(
        profile.capability, "pack", profile.metric, profile.direction, 0.97, None, 1, 512, Thresholds(0.02, 0.005)
    )
    store.write(profile, plan_capability(profile, contract, PlanSettings(0.9, 5, 10)))


@pytest.fixture(scope="module")
def measured(one_planted, lookup) -> Reference:
    return measure_reference(one_planted.teacher, lookup, REQUEST, weights_hash(one_planted.teacher))


def test_the_teachers_scores_are_those_of_an_evaluation_of_the_same_samples(measured, one_planted, lookup) -> None:
    found, answers = evaluate("planted", one_planted.teacher, lookup, REQUEST)
    assert measured.scores == tuple(answers.scores)
    assert (measured.score, measured.n) == (found.score, 12)
    assert measured.score > 0.9, "the planted teacher knows the table"
    assert measured.sample_digest_sha256 == sample_digest(lookup.samples(REQUEST))


def test_a_teacher_that_errs_has_the_zeros_where_it_erred(one_planted, lookup) -> None:
    class Wrong(type(lookup)):
        def score(self, sample, output):
            return float(output == sample.target and sample.id != "4")

    scores = measure_reference(one_planted.teacher, Wrong(), REQUEST, "hash").scores
    assert [i for i, score in enumerate(scores) if score == 0.0] == [4]


def test_the_gate_asks_the_contracts_benchmark() -> None:
    contract = Contract("math", "pack", "m", Direction.HIGHER, 0.97, None, 1, 512, Thresholds(0.02, 0.005))
    assert gate_request(contract, 7, 3) == SampleRequest(Split.VERIFY, 7, 3, None)
    assert gate_request(replace(contract, benchmark="gsm8k"), 7, 3) == SampleRequest(Split.VERIFY, 7, 3, "gsm8k")


def test_only_the_verify_split_is_a_reference(one_planted, lookup) -> None:
    with pytest.raises(UsageError, match="verify split, not profile"):
        measure_reference(one_planted.teacher, lookup, replace(REQUEST, split=Split.PROFILE), "hash")


def test_it_is_kept_with_the_profile_and_read_back_to_the_last_digit(store, measured, one_planted, lookup) -> None:
    third = replace(measured, score=1 / 3, scores=(1 / 3,) * 12)
    store.write_reference(third)
    assert store.reference(third.teacher, "lookup") == third
    assert read_reference(store.root / "profiles" / third.teacher / "lookup" / FILE) == third
    assert store.verify() == ()
    put(store, bare(one_planted, lookup))  # profiled again: the same weights, so the same scores
    assert store.reference(third.teacher, "lookup") == third
    store.remove(third.teacher)
    assert store.verify() == ()


def test_nothing_that_was_asked_or_answered_is_kept(measured, lookup) -> None:
    text = encode_reference(measured).decode()
    assert not [sample.prompt for sample in lookup.samples(REQUEST) if sample.prompt in text]
    assert not [sample.digest for sample in lookup.samples(REQUEST) if sample.digest in text]


def test_a_teacher_that_was_not_scored_is_said_with_the_command_that_scores_it(store, measured) -> None:
    assert store.reference(measured.teacher, "lookup") is None
    path = store.root / "profiles" / measured.teacher / "lookup" / FILE
    with pytest.raises(ArtifactError, match="not scored on the verify split") as error:
        read_reference(path)
    command = f"nexus profile --teacher {measured.teacher} --capability lookup --run {store.root.parent}"
    assert error.value.hint == f"{command} --reference-only"
    with pytest.raises(DataError, match="has no profile of ada/lookup"):
        read_reference(store.root / "profiles" / "ada" / "lookup" / FILE)


def test_scores_of_other_weights_are_refused(store, measured) -> None:
    with pytest.raises(ArtifactError, match="other weights"):
        store.write_reference(replace(measured, weights_hash="0" * 64))
    store.write_reference(measured)
    with pytest.raises(ArtifactError, match="other weights"):
        store.reference(measured.teacher, "lookup", "0" * 64)


def test_a_score_that_was_changed_by_hand_is_refused(store, measured) -> None:
    store.write_reference(measured)
    path = store.root / "profiles" / measured.teacher / "lookup" / FILE
    path.write_bytes(path.read_bytes().replace(b'"score": 1.0', b'"score": 0.1'))
    with pytest.raises(ArtifactError, match="changed since it was written"):
        read_reference(path)
    assert [finding.kind for finding in store.verify()] == [FindingKind.CORRUPT]


def test_a_file_of_another_teacher_is_noticed(store, measured) -> None:
    """Also when the manifest was made to fit: the file itself says whose it is."""
    store.write_reference(measured)
    path = store.root / "profiles" / measured.teacher / "lookup" / FILE
    path.write_bytes(encode_reference(replace(measured, teacher="ada")))
    manifest = json.loads((store.root / "manifest.json").read_text())
    entry = Entry.of(path.read_bytes())
    manifest["files"][str(path.relative_to(store.root))] = {"sha256": entry.sha256, "size": entry.size}
    (store.root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="belongs to ada/lookup"):
        read_reference(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [1.0] * 11}, "11 scores for n=12"),
        ({"scores": [1.0] * 11 + [None]}, "not a finite number"),
        ({"scores": [1.0] * 11 + ["1.0"]}, "not a finite number"),
        ({"scores": [1.0] * 11 + [True]}, "not a finite number"),
        ({"score": None}, "score is None"),
        ({"n": 0, "scores": []}, "0 scores for n=0"),
        ({"direction": "up"}, "'up' is not a valid Direction"),
        ({"data": 3}, "neither text nor null"),
        ({"version": 2}, "version 2 is unknown"),
        ({"sample_digest_sha256": "?"}, "digest"),
        ({"outputs": ["a"]}, 'unknown key "outputs"'),
        ({"seed": None}, "seed is None"),
    ],
)
def test_what_does_not_fit_together_is_refused(measured, change, message) -> None:
    data = {**json.loads(encode_reference(measured)), **change}
    with pytest.raises(ArtifactError, match=message):
        decode_reference("here", json.dumps(data).encode())


def test_a_missing_field_is_named(measured) -> None:
    data = json.loads(encode_reference(measured))
    del data["scores"]
    with pytest.raises(ArtifactError, match="no 'scores'"):
        decode_reference("here", json.dumps(data).encode())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_never_written(store, measured, bad) -> None:
    with pytest.raises(ArtifactError, match="not a finite number"):
        store.write_reference(replace(measured, scores=(bad, *measured.scores[1:])))
    assert store.reference(measured.teacher, "lookup") is None


def test_it_is_current_only_for_the_samples_that_would_be_drawn_now(measured, lookup) -> None:
    assert is_current(measured, lookup, REQUEST)
    for other in (replace(REQUEST, n=11), replace(REQUEST, n=13), replace(REQUEST, seed=4)):
        assert not is_current(measured, lookup, other)
    assert not is_current(replace(measured, metric="f1"), lookup, REQUEST)

    class Changed(type(lookup)):
        def samples(self, request):
            return (replace(sample, prompt=f"{sample.prompt}?") for sample in super().samples(request))

    assert not is_current(measured, Changed(), REQUEST)
    assert measured.direction is Direction.HIGHER
