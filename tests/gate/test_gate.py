"""`nexus verify`: one student that passes, and those that must not, each a real one before the real gate."""

from __future__ import annotations

import pytest


def test_an_honest_student_passes(passed_once) -> None:
    report = passed_once.report
    assert (passed_once.status, report["verdict"], report["reasons"]) == (0, "pass", []), passed_once.err
    letters, errors = (report["capabilities"][name] for name in ("letters", "errors"))
    assert (letters["student_score"], letters["n"], letters["verdict"]) == (1.0, 40, "pass")
    assert (letters["retain_fraction"], letters["minimum"], letters["direction"]) == (0.97, None, "higher")
    assert errors["direction"] == "lower" and errors["student_score"] < errors["teacher_score"]
    assert "out of reach: ada, bob" in passed_once.out and "verdict: pass" in passed_once.out


def test_what_the_report_of_a_pass_tells(passed_once) -> None:
    report = passed_once.report
    teacher = report["isolation"]["teachers"]["ada"]
    assert teacher["moved"] and teacher["open"] == "No such file or directory"
    assert teacher["place"] == "teachers/ada" and len(teacher["weights_sha256"]) == 64
    assert report["isolation"]["attempts"] == []
    assert {"nexus_core.student.model", "nexus_tower_text"} <= set(report["isolation"]["modules"])
    assert not [name for name in report["isolation"]["modules"] if name.startswith(("nexus_teacher", "nexus_capab"))]
    control = report["controls"]["letters"]
    assert control["backbone"]["score"] < 0.5 and not control["backbone"]["keeps_contract"]
    assert control["baselines"]["last letter"] < 0.5
    found = report["conditions"]["letters"]
    assert [part["n"] for part in found["length"]] == [10, 10, 10, 10]
    assert sum(part["n"] for part in found["stratum"].values()) == 40 and set(found["stratum"]) == {"early", "late"}
    assert (found["batch"]["n"], found["batch"]["equal"]) == (6, 6)
    assert found["latency"]["n"] == 6 and found["latency"]["p10"] <= found["latency"]["ms_per_token"]


@pytest.mark.slow
def test_what_was_not_asked_cannot_pass_for_everything(world, verify) -> None:
    ended = verify("--capability", "letters", "--samples", "12")
    assert (ended.status, ended.report["verdict"]) == (3, "incomplete"), "only the whole student's pass is a 0"
    assert ended.report["capabilities"]["letters"]["verdict"] == "pass"
    assert "what was asked passed; this is no verdict on the student" in ended.err
    assert ended.report["gaps"] == ["12 samples instead of the registry's 40", "not asked: errors"]
    assert verify("--check", "--delete-teachers").status == 3, "no teacher is deleted for a part"
    assert world.teacher("ada").exists()


def test_every_way_to_fall_short_fails_and_says_why(made, world, verify) -> None:
    made.put_student(world, made.arch("letters", "raw", "zeroed", "wrong", "lost"))
    made.write_arch(world.run / made.ARCH, made.arch("letters", "errors", "raw", "zeroed", "wrong", "lost"))
    ended = verify()
    rows = ended.report["capabilities"]
    assert (ended.status, ended.report["verdict"]) == (3, "fail")
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "letters": "pass",
        **dict.fromkeys(("errors", "lost", "raw", "zeroed", "wrong"), "fail"),
    }
    assert list(rows)[:2] == ["errors", "lost"] and list(rows)[-1] == "letters", "the worst first"
    assert rows["errors"]["reason"] == "it was planned, and the student has no adapter for it"
    assert "of 40 scores are missing" in rows["lost"]["reason"] and rows["lost"]["student_score"] is None
    assert "is below 0.97, which is 0.97 of the teacher's 1" in rows["raw"]["reason"]
    assert "is below 0.97" in rows["zeroed"]["reason"]
    assert rows["raw"]["student_score"] == rows["zeroed"]["student_score"], "both are the plain backbone"
    assert "is above" in rows["wrong"]["reason"] and rows["wrong"]["ratio"] > 1.03
    for name in ("errors", "raw", "zeroed", "wrong", "lost"):
        assert f"fail: {name}: {rows[name]['reason']}" in ended.err


@pytest.mark.parametrize(
    ("tower", "event", "what"),
    [
        ("reader", "open", "the teacher ada"),
        pytest.param("importer", "import", "a teacher plugin", marks=pytest.mark.slow),
        pytest.param("caller", "socket.", "the network", marks=pytest.mark.slow),
        pytest.param("starter", "subprocess.Popen", "another process", marks=pytest.mark.slow),
        pytest.param("examiner", "import", "a capability plugin", marks=pytest.mark.slow),
        pytest.param("lister", "os.listdir", "the directory around a teacher", marks=pytest.mark.slow),
    ],
)
def test_a_student_that_reaches_out_fails_whatever_it_scores(made, world, verify, tower, event, what) -> None:
    made.put_student(world, made.arch("letters", "errors"), tower)
    ended = verify()
    assert (ended.status, ended.report["verdict"]) == (3, "fail")
    assert {row["verdict"] for row in ended.report["capabilities"].values()} == {"pass"}, "it knows the table by itself"
    isolation = ended.report["isolation"]
    assert isolation["verdict"] == "fail"
    attempt = isolation["attempts"][0]
    assert attempt["event"].startswith(event) and attempt["what"] == what
    assert f"fail: isolation: the student's process touched {what}: {event}" in ended.err
