"""Loading: each mistake is one problem, with its file and line, and with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_core.errors import RegistryError
from nexus_core.registry import check_registry, find_registry, load_registry, load_tolerant
from nexus_core.resources import shared_path

Write = Callable[..., Path]
TEACHER = "  {id}: {{name: {name}, parameters: 1B, category: x, best_feature: x, tower: text, capabilities: [math]}}\n"


def test_a_sound_registry_has_no_problem(write: Write) -> None:
    path = write()
    assert check_registry(path) == []
    registry = load_registry(path)
    assert registry.contract("sums", "ada") == registry.contract("math")
    assert registry.contract("wer").retain_fraction == 1.03
    assert registry.teacher("ada").origin.line == 26


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            "metric: exact,",
            "metrc: exact,",
            18,
            'unknown key "metrc" in capabilities.math.contract; did you mean "metric"?',
        ),
        ("metric: exact, direction: higher", "metric: exact", 18, 'capabilities.math.contract has no "direction"'),
        ("direction: lower}", "direction: lowr}", 24, 'direction is "lowr"; did you mean "lower"?'),
        ("tower: text\n    description: sums", "tower: txt\n    description: sums", 14, '"txt"; did you mean "text"?'),
        ("tower: text\n    capabilities", "tower: txet\n    capabilities", 31, 'unknown tower "txet"'),
        ("[math]", "[maths]", 32, 'unknown capability "maths"; did you mean "math"?'),
        ("tier: 1\n", "tier: 3\n", 13, 'math names an unknown tier "3"'),
        ("tier: 1\n", "tier: one\n", 13, 'capabilities.math.tier is "one", not a whole number'),
        ("points\n", "pionts\n", 17, 'unknown thresholds "pionts"; did you mean "points"?'),
        ("0.2, recoverable: 0.1", "0.1, recoverable: 0.2", 23, "non_negotiable must be larger"),
        ("0.2, recoverable: 0.1", "0.2", 23, 'thresholds has no "recoverable"'),
        ("0.02, recoverable: 0.005", "0.02, recoverable: 0.02", 8, "non_negotiable must be larger"),
        ("direction: higher}", "direction: higher, retain_fraction: 1.2}", 18, "1.2 asks the student to beat"),
        ("direction: lower}", "direction: lower, retain_fraction: 0.9}", 24, "0.9 asks the student to beat"),
        ("direction: lower}", "direction: lower, minimum: 0.1}", 24, "minimum is a floor"),
        ("direction: higher}", "direction: higher, retain_fraction: null}", 18, "demands nothing"),
        ("{higher: 0.97", "{higher: 9.7", 3, "9.7 asks the student to beat"),
        ("rank_cap: text", "rank_cap: txt", 6, 'unknown rank cap "txt"; did you mean "text"?'),
        ("aliases: [sums]", "aliases: [wer]", 16, 'the alias "wer" of math already means wer'),
        ("capabilities: [math]", "capabilities: []", 32, "ada carries no capability"),
        ("tower: text\n    capabilities", "tower: null\n    capabilities", 31, "ada has no tower"),
        ("category: Language model", "category: refinement", 26, "a refinement teacher without a mode"),
        (
            "path: null",
            "contracts: {math: {minimum: 0.5}, wer: {minimum: 1}}",
            33,
            "has a contract for wer, which it does not",
        ),
        ("path: null", "contracts: {math: {retain_fraction: 2}}", 33, "2 asks the student to beat"),
        ("path: null", "fate: {action: drop}", 33, 'teachers.ada.fate has no "reason"'),
        ("path: null", "fate: {action: dropped, reason: x}", 33, '"dropped"; did you mean "drop"?'),
        ("path: null", "fate: {action: drop, reason: x, why: y}", 33, 'unknown key "why" in teachers.ada.fate'),
        ("path: null", "fate: {action: merge, reason: x}", 33, "ada is merged into nobody"),
        ("path: null", "fate: {action: drop, into: bob, reason: x}", 33, "ada is dropped, and into bob"),
        ("path: null", "fate: {action: merge, into: ada, reason: x}", 33, "ada is merged into itself"),
        ("path: null", "fate: {action: merge, into: aad, reason: x}", 33, 'unknown teacher "aad"; did you mean "ada"?'),
        ("path: null", "role: backbone\n    fate: {action: drop, reason: x}", 34, "its role is backbone"),
        ("path: null", "pth: null", 33, 'unknown key "pth" in teachers.ada; did you mean "path"?'),
        ("  ada:\n", "  Ada Lovelace:\n", 26, '"Ada Lovelace" in teachers cannot be an id'),
        ("version: 1\n", "version: 2\n", 1, "version: 1 was expected"),
        ("latent_max: 64", "latent_max: -1", 10, "latent_max"),
    ],
)
def test_one_mistake_is_one_line_with_its_place(
    write: Write, small: str, old: str, new: str, line: int, message: str
) -> None:
    assert old in small
    path = write(small.replace(old, new, 1))
    problems = check_registry(path)
    assert any(problem.line == line and message in problem.message for problem in problems), problems
    assert all(problem.hint and "\n" not in str(problem) for problem in problems)
    with pytest.raises(RegistryError) as error:
        load_registry(path)
    assert str(path) in error.value.message
    assert error.value.hint


def test_all_problems_are_reported_in_the_order_of_the_file(write: Write, small: str) -> None:
    path = write(
        small.replace("metric: exact", "metrc: exact").replace("latent_max", "latent_mx").replace("path:", "pat:")
    )
    lines = [problem.line for problem in check_registry(path)]
    assert lines == sorted(lines)
    assert {10, 18, 33} <= set(lines)
    with pytest.raises(RegistryError, match="nexus registry check"):
        load_registry(path)


def test_a_duplicate_teacher_is_named_with_both_lines(write: Write, small: str) -> None:
    by_id = check_registry(write(small + TEACHER.format(id="ada", name="Other")))
    assert [(p.line, p.message) for p in by_id] == [(34, '"ada" appears twice in teachers (lines 26 and 34)')]
    by_name = check_registry(write(small + TEACHER.format(id="countess", name="ADA")))
    assert [p.message for p in by_name] == ['the teacher "ADA" is listed twice: as ada and as countess']


def test_unknown_names_are_answered_with_the_nearest(write: Write) -> None:
    registry = load_registry(write())
    for call, wrong, right in (
        (registry.teacher, "adda", "ada"),
        (registry.capability, "mth", "math"),
        (registry.tower, "txt", "text"),
        (registry.contract, "mth", "math"),
    ):
        with pytest.raises(RegistryError, match=f'did you mean "{right}"') as error:
            call(wrong)
        assert "known:" in error.value.hint
    with pytest.raises(RegistryError, match='"ada" does not carry capability "wer"'):
        registry.contract("wer", "ada")


def test_find_registry_prefers_what_was_said_last(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEXUS_REGISTRY", raising=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert find_registry() == shared_path("registry.yaml")
    local = write(name="empty/registry.yaml")
    assert find_registry().resolve() == local
    by_environment = write(name="other.yaml")
    monkeypatch.setenv("NEXUS_REGISTRY", str(by_environment))
    assert find_registry() == by_environment
    explicit = write()
    assert find_registry(explicit) == explicit
    assert find_registry(tmp_path) == explicit
    monkeypatch.setenv("NEXUS_REGISTRY", str(tmp_path / "gone.yaml"))
    with pytest.raises(RegistryError, match=r"gone\.yaml \(named by NEXUS_REGISTRY\)"):
        find_registry()


def test_a_plugin_brings_rows_and_the_project_wins(write: Write) -> None:
    path = write()
    pack = write(
        "teachers:\n" + TEACHER.format(id="bob", name="Bob") + TEACHER.format(id="ada", name="Impostor"), "pack.yaml"
    )
    registry = load_registry(path, [("pack", pack)])
    assert registry.teacher("bob").origin.owner == "pack"
    assert registry.teacher("bob").origin.path == pack
    assert (registry.teacher("ada").name, registry.teacher("ada").origin.owner) == ("Ada", "registry")


def test_two_plugins_that_claim_one_id_are_both_named(write: Write) -> None:
    path = write()
    first = write("teachers:\n" + TEACHER.format(id="bob", name="Bob"), "first.yaml")
    second = write("teachers:\n" + TEACHER.format(id="bob", name="Robert"), "second.yaml")
    with pytest.raises(RegistryError, match=r'teachers\.bob is claimed by two plugins: "one" and "two"'):
        load_registry(path, [("one", first), ("two", second)])


def test_one_file_of_two_plugins_is_read_once(write: Write) -> None:
    pack = write("teachers:\n" + TEACHER.format(id="bob", name="Bob"), "pack.yaml")
    assert "bob" in load_registry(write(), [("teacher", pack), ("tower", pack)]).teachers


def test_a_fragment_holds_rows_only(write: Write) -> None:
    pack = write("defaults: {}\n", "pack.yaml")
    problems = check_registry(write(), [("pack", pack)])
    assert [(p.path, p.message) for p in problems] == [(pack, 'unknown key "defaults"')]


def test_a_faulty_row_is_left_out_and_named_and_so_is_what_relied_on_it(write: Write) -> None:
    path = write()
    bad = write("teachers: [", "bad.yaml")
    shapeless = write("teachers: []\n", "shapeless.yaml")
    pack = write(
        "capabilities:\n  chess: {tier: 1, tower: txt, description: x, thresholds: points,"
        " contract: {benchmark: pack, metric: elo, direction: higher}}\nteachers:\n"
        + TEACHER.format(id="bob", name="Bob")
        + TEACHER.format(id="eve", name="Eve").replace("math", "chess")
        + "  ida: {name: Ida}\n"
        + "  bob2: {name: Bob2, name: Bob2}\n",
        "pack.yaml",
    )
    registry, problems = load_tolerant(path, [("bad", bad), ("shapeless", shapeless), ("pack", pack)])
    assert set(registry.teachers) == {"ada", "bob"}
    assert set(registry.capabilities) == {"math", "wer"}
    assert {problem.row for problem in problems if problem.path == pack} == {
        *(("capabilities", "chess"), ("teachers", "eve"), ("teachers", "ida"), ("teachers", "bob2"))
    }
    assert {problem.path for problem in problems} == {bad, shapeless, pack}


def test_a_backbone_carries_no_capability(write: Write, small: str) -> None:
    path = write(small.replace("capabilities: [math]", "capabilities: []\n    role: backbone"))
    assert load_registry(path).teacher("ada").role == "backbone"


def test_the_projects_own_problems_are_never_tolerated(write: Write, small: str) -> None:
    with pytest.raises(RegistryError, match="unknown tower"):
        load_tolerant(write(small.replace("tower: text", "tower: txt", 1)), [])


PROFILING = """\
profiling:
  samples: 200
  sample_sizes: {debug: 5, standard: 6, production: 7}
  pilot_samples: 2
  verify_samples: 3
  layers: 3
  components: {most: 8, middle: 4, tested: 2}
  attention_heads: 2
  drill: 1
  variance_fraction: 0.9
  reconstruction_max_drop: 0.1
  overlap_heavy: 0.5
  loss_weight: {least: 2, most: 3}
"""


def test_a_registry_without_a_profiling_section_serves_until_one_profiles(write: Write, small: str) -> None:
    with pytest.raises(RegistryError, match='has no section "profiling"'):
        _ = load_registry(write()).profiling
    assert load_registry(write(small + PROFILING)).profiling.components_tested == 2


GATE = """
gate:
  samples: 12
  resamples: 100
  attempts: 0
  control_samples: 6
  alone: 4
  batch_equal: 0.9
  minutes: 1.5
"""


def test_a_registry_without_a_gate_section_serves_until_one_is_wanted(write: Write, small: str) -> None:
    with pytest.raises(RegistryError, match='has no section "gate"'):
        _ = load_registry(write()).gate
    gate = load_registry(write(small + GATE)).gate
    assert (gate.samples, gate.attempts, gate.batch_equal) == (12, 0, 0.9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("samples: 12", "sampels: 12", 'unknown key "sampels" in gate; did you mean "samples"?'),
        ("  samples: 12\n", "", 'gate has no "samples"'),
        ("samples: 12", "samples: 0", "0 is less than the minimum of 1"),
        ("attempts: 0", "attempts: -1", "-1 is less than the minimum of 0"),
        ("batch_equal: 0.9", "batch_equal: 1.1", "1.1 is greater than the maximum of 1"),
        ("minutes: 1.5", "minutes: 0", "0 is less than or equal to the minimum of 0"),
    ],
)
def test_a_mistake_in_the_gate_section(write: Write, small: str, old: str, new: str, message: str) -> None:
    assert old in GATE
    problems = check_registry(write(small + GATE.replace(old, new)))
    assert any(message in problem.message for problem in problems), problems


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("verify_samples: 3", "verify_samples: 51", "51 is greater than the maximum of 50"),  # an invariant
        ("variance_fraction: 0.9", "variance_fraction: 97", "97 is greater than the maximum of 1"),
        ("  layers: 3\n", "", 'profiling has no "layers"'),
        ("layers: 3", "layres: 3", 'unknown key "layres" in profiling; did you mean "layers"?'),
        ("{least: 2, most: 3}", "{least: 4, most: 3}", "the least loss weight, 4, is above the most, 3"),
    ],
)
def test_a_mistake_in_the_profiling_section(write: Write, small: str, old: str, new: str, message: str) -> None:
    assert old in PROFILING
    problems = check_registry(write(small + PROFILING.replace(old, new)))
    assert any(message in problem.message for problem in problems), problems


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("capabilities: [math], fate: {action: drop, reason: x}", "ada is merged into bob, which is set aside itself"),
        ("capabilities: [wer]", "ada is merged into bob, which does not carry math"),
    ],
)
def test_who_is_merged_into_must_teach_it(write: Write, small: str, other: str, says: str) -> None:
    fate = "    fate: {action: merge, into: bob, reason: kin}\n"
    bob = f"  bob: {{name: Bob, parameters: 1B, category: x, best_feature: x, tower: text, {other}}}\n"
    (problem,) = check_registry(write(small + fate + bob))
    assert problem.message == says and problem.row == ("teachers", "ada")
