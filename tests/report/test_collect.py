"""report.json says what the artifacts say, and what is not there says how it is made."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from nexus_core.cli.context import open_plugins, open_registry
from nexus_core.cli.main import cli
from nexus_core.errors import ContractFailed, DataError, NexusError
from nexus_core.report.collect import ReportOrder, collect
from nexus_core.student.arch import ARCH, read_arch, write_arch

PARTS = ("retention", "study", "profiles", "trainings", "router", "times", "decisions", "answers")


def of(run: Path, **changes: object) -> dict:
    return collect(ReportOrder(run, **changes))


def test_retention_is_the_gates_with_the_worst_first(run, collected):
    kept, report = collected["retention"], json.loads((run / "verify_report.json").read_text())
    assert [row["capability"] for row in kept["rows"]] == list(report["capabilities"]) == ["errors", "letters"]
    assert kept["verdict"] == "fail" and kept["problems"] == []
    worst = report["capabilities"]["errors"]
    assert [kept["rows"][0][key] for key in ("ratio", "low", "high", "n")] == [worst["ratio"], *worst["ci95"], 40]
    assert kept["student"] == "the student in the run is the one that was verified"


def test_controls_are_shares_of_the_teacher_on_the_same_samples(collected):
    errors, letters = (row["controls"] for row in collected["retention"]["rows"])
    assert [(c["name"], c["ratio"]) for c in errors] == [
        ("no adapter", 0.05 / 0.9),  # on the 10 samples that it was asked, where its teacher has 0.9
        ("baseline last letter", 0.08 / 0.2),
        ("no teacher", 0.1 / 0.2),
    ]
    assert letters[-1] == {"name": "no teacher", "score": 0.125, "ratio": 0.125, "n": 40, "low": 0.0625, "high": 0.1875}


def test_an_edited_report_is_refused(run):
    path = run / "verify_report.json"
    path.write_text(path.read_text().replace('"verdict": "fail"', '"verdict": "pass"'))
    with pytest.raises(ContractFailed, match="was edited"):
        of(run)


def test_a_student_that_was_changed_since_is_told(run):
    (run / "student/more.json").write_text("{}")
    kept = of(run, registry=open_registry())["retention"]
    assert kept["student"] == "the student was changed since"
    assert kept["problems"] == ["it is about another student, or the student was changed since"]


def test_before_the_gate_the_trainings_measurement_stands_and_says_so(run):
    (run / "verify_report.json").unlink()
    kept = of(run)["retention"]
    assert (kept["source"], kept["verdict"]) == ("distill/summary.json", "not verified")
    assert [(row["capability"], row["ratio"], row["verdict"]) for row in kept["rows"]] == [
        ("errors", 0.5, "fail"),
        ("letters", 0.99, "pass"),
    ]


def test_of_an_empty_run_every_part_says_which_command_makes_it(tmp_path):
    found = of(tmp_path)
    assert all("absent" in found[part] for part in PARTS)
    for part in [*(found[part] for part in PARTS), found["sizes"]["bundle"]]:
        if part["command"]:
            program, *words = shlex.split(part["command"])
            assert program == "nexus" and CliRunner().invoke(cli, [*words, "--help"]).exit_code == 0
    assert [row["why"] for row in found["commands"]["rows"]] == ["report"]


def test_a_training_is_thinned_to_means_and_its_rollbacks_stand(collected):
    joint, letters = collected["trainings"]["rows"]
    assert (joint["name"], joint["steps"], joint["mean_of"], joint["reason"]) == ("joint", 501, 5, "ceiling")
    assert joint["points"][0] == {"step": 5, "loss": pytest.approx(2.0 - 0.03), "anchor": 0.375}
    assert joint["points"][-1] == {"step": 501, "loss": None, "anchor": None}  # its loss was no number
    assert [(r["step"], r["to"]) for r in joint["rollbacks"]] == [(5, 2)]
    assert len(letters["points"]) == 8 and letters["evaluations"][0]["goal"] == 0.97


def test_a_journal_that_is_being_written_is_read_to_its_last_whole_line(run):
    path = run / "distill/letters/steps.jsonl"
    with path.open("a") as file:
        file.write('{"step": 9, "lo')
    assert of(run)["trainings"]["rows"][1]["steps"] == 8


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("distill/letters/steps.jsonl", '{"step": 1, "loss": 1}\n{"st\n'),
        ("distill/letters/steps.jsonl", '{"event": "rollback", "step": 1}\n'),
        ("distill/letters/steps.jsonl", "[1]\n"),
        ("distill/summary.json", '{"router": {"confusion": {}}}'),
        ("distill/summary.json", "{"),
        ("study/study.json", '{"arms": {"full": {}}}'),
        ("student_arch.json", "{}"),
        ("nexus_bundle_v1/manifest.json", "{}"),
    ],
)
def test_a_damaged_file_is_named(run, name, content):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(content)
    with pytest.raises(NexusError, match=Path(name).name):
        of(run)


def test_every_decision_stands_with_its_reason_what_was_lost_first(run, collected):
    groups = collected["decisions"]["groups"]
    assert [group["action"] for group in groups] == ["drop", "merge", "cap", "keep"]
    told = {(d["subject"], d["reason"]) for group in groups for d in group["decisions"]}
    assert told == {(d.subject, d.reason) for d in read_arch(run / ARCH).decisions}


def test_variance_adds_up_and_the_kept_number_is_told(collected):
    block = collected["profiles"]["rows"][0]["blocks"][0]
    assert block["curve"] == [[1, 0.45], [2, 0.6], [3, 0.65], [4, 0.66]]
    assert (block["kept"], block["variance_of_kept"]) == (3, pytest.approx(0.65))


def test_ablations_are_of_the_block_alone_and_pieces_are_counted(collected):
    found = [a for a in collected["profiles"]["rows"][0]["ablations"] if a["block"] == "model.layers.2"]
    assert [a["what"] for a in found] == ["block bypass", "MLP piece 1", "MLP piece 2", "head 0", "head 1"]


def test_commands_have_the_sizes_of_the_artifacts(run, collected):
    typed = [row["command"] for row in collected["commands"]["rows"] if row["why"] == "profile"]
    assert "--teacher ada --capability letters --sample-size 12 --gate-samples 0 --seed 42" in typed[0]
    commands = {row["why"]: row["command"] for row in collected["commands"]["rows"]}
    assert "--preset tiny --capability letters --capability errors --backbone random --seed 42" in commands["plan"]
    assert commands["verify"] == f"nexus verify --samples 40 --run {shlex.quote(str(run))}"
    for command in commands.values():
        assert CliRunner().invoke(cli, [*shlex.split(command)[1:], "--help"]).exit_code == 0


def test_sizes_and_times_are_those_of_the_files(run, collected):
    sizes = {row["what"]: row for row in collected["sizes"]["stages"]}
    files = [path for path in (run / "student").rglob("*") if path.is_file()]
    assert (sizes["student"]["files"], sizes["student"]["bytes"]) == (len(files), sum(f.stat().st_size for f in files))
    assert "absent" in collected["sizes"]["bundle"]
    assert {"stage": "distill", "what": "teaching", "seconds": 6.75} in collected["times"]["rows"]
    assert {"stage": "study", "what": "full, seed 1", "seconds": 12.5} in collected["times"]["rows"]


def test_a_bundle_that_is_named_must_be_one(run, tmp_path):
    with pytest.raises(DataError, match="no bundle at"):
        of(run, bundle=tmp_path / "nothing")


# --- answers ----------------------------------------------------------------------------------------------------


def test_the_student_answers_what_its_teacher_was_asked(collected, here):
    row = next(row for row in collected["answers"]["rows"] if row["capability"] == "letters")
    assert len(row["pairs"]) == 10 and row["note"] == ""
    assert all(pair["student"] in set(here.LETTERS) for pair in row["pairs"])
    assert [pair["student_score"] for pair in row["pairs"]] == [
        float(pair["student"] == pair["target"]) for pair in row["pairs"]
    ]
    assert sum(pair["student_score"] for pair in row["pairs"]) >= 9  # it was taught this table
    assert row["pairs"][2]["teacher"] == '{"call": [1, null]}'


def test_without_plugins_or_without_a_student_nobody_is_asked(run):
    alone = of(run)["answers"]["rows"][0]["pairs"]
    assert len(alone) == 10 and {pair["student"] for pair in alone} == {None}
    shutil.rmtree(run / "student")
    found = of(run, plugins=open_plugins())["answers"]
    assert "no student" in found["student"]["absent"]
    assert {pair["student"] for row in found["rows"] for pair in row["pairs"]} == {None}


def test_an_isolated_capability_is_not_shown(run):
    for path in (run / ARCH, run / "student" / ARCH):
        arch = json.loads(path.read_text())
        for adapter in arch["adapters"]:
            adapter["isolated"] = adapter["capability"] == "letters"
        path.write_text(json.dumps(arch))
    rows = {row["capability"]: row for row in of(run, plugins=open_plugins())["answers"]["rows"]}
    assert rows["letters"]["pairs"] == [] and "isolated" in rows["letters"]["note"]
    assert len(rows["errors"]["pairs"]) == 10


def test_a_student_that_learnt_from_somebody_else_is_not_compared(run):
    arch = read_arch(run / ARCH)
    path = run / "student" / ARCH
    raw = json.loads(path.read_text())
    raw["adapters"][0]["teacher"] = "bob"
    path.write_text(json.dumps(raw))
    write_arch(run / ARCH, arch)
    row = next(r for r in of(run, plugins=open_plugins())["answers"]["rows"] if r["capability"] == "letters")
    assert "no adapter that was taught by this teacher" in row["note"] and row["pairs"][0]["student"] is None


def test_texts_that_no_page_can_show_are_marked(collected):
    told = collected["answers"]["rows"][0]["pairs"][1]["teacher"]
    assert told == "half \ufffd, a bell \ufffd and an escape \ufffd[31m"
    json.dumps(collected, ensure_ascii=False, allow_nan=False).encode()
