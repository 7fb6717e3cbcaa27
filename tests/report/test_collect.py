"""report.json says what the artifacts say, and what is not there says how it is made."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from nexus_core.cli.context import load_teacher, open_plugins, open_registry
from nexus_core.cli.main import cli
from nexus_core.errors import ContractFailed, DataError, ModelError, NexusError
from nexus_core.gate.report import signed, write_report
from nexus_core.registry import load_registry
from nexus_core.report.collect import ReportOrder, collect
from nexus_core.resources import shared_path
from nexus_core.student.arch import ARCH, read_arch, write_arch

PARTS = (
    "retention",
    "conditions",
    "forms",
    "study",
    "registry",
    "profiles",
    "trainings",
    "router",
    "times",
    "decisions",
    "answers",
)


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


# --- what `nexus run` leaves -------------------------------------------------------------------------------------


def test_every_teacher_of_the_registry_stands_with_its_fate_and_the_way_to_get_it(run, collected):
    assert collected["registry"]["source"] == "registry_report.json"
    groups = {group["status"]: group for group in collected["registry"]["groups"]}
    assert list(groups) == ["selected", "merged", "dropped", "absent"]
    assert [(row["teacher"], row["capabilities"]) for row in groups["selected"]["rows"]] == [
        ("ada", ["letters"]),
        ("bob", ["errors"]),
    ]
    assert groups["absent"]["rows"][0]["how"] == "get zoe/zoe and set `path:` of its row"
    assert groups["merged"]["rows"][0]["reason"] == "merged into ada: the same weights"
    told = json.loads((run / "registry_report.json").read_text())["teachers"]
    assert sum(group["n"] for group in groups.values()) == len(told)


def test_without_the_runs_word_the_registry_is_asked(run, here, tmp_path, monkeypatch):
    (run / "registry_report.json").unlink()
    assert "absent" in of(run)["registry"]
    rows = {row.id for row in open_registry().teachers.values()}
    groups = {group["status"]: group for group in of(run, registry=open_registry())["registry"]["groups"]}
    assert {row["teacher"] for group in groups.values() for row in group["rows"]} == rows
    assert {row["teacher"] for row in groups["profiled"]["rows"]} == {"ada", "bob"}
    shipped = load_registry(shared_path("registry.yaml"))
    groups = {group["status"]: group for group in of(run, registry=shipped)["registry"]["groups"]}
    absent = {row["teacher"]: row for row in groups["absent"]["rows"]}
    assert len(absent) == 14
    for name, row in absent.items():
        with pytest.raises(ModelError) as told:
            load_teacher(open_plugins(), shipped.teacher(name))
        assert (row["reason"] in told.value.message, row["how"]) == (True, told.value.hint)


def test_the_conditions_are_those_of_the_gate_and_the_worst_kind_is_first(run, collected):
    report = json.loads((run / "verify_report.json").read_text())
    errors, letters = collected["conditions"]["rows"]
    assert (errors["capability"], letters["capability"]) == ("errors", "letters"), "in the order of the report"
    for row in (errors, letters):
        told = report["conditions"][row["capability"]]
        assert [(p["from"], p["to"], p["n"], p["student"]) for p in row["length"]] == [
            (*p["characters"], p["n"], p["student_score"]) for p in told["length"]
        ]
        assert row["length"][3]["ratio"] == told["length"][3]["student_score"] / told["length"][3]["teacher_score"]
        assert (row["batch"], row["truncated"], row["ms_per_token"]) == (told["batch"], 3, 1.375)
    assert errors["strata"][0]["student"] > errors["strata"][1]["student"], "of errors, fewer are better"
    assert letters["strata"][0]["student"] < letters["strata"][1]["student"]
    (run / "verify_report.json").unlink()
    assert "nexus verify" in of(run)["conditions"]["command"]


def test_returns_to_earlier_stages_are_told(collected):
    kept = collected["retention"]
    assert (kept["kept"], kept["of"]) == (1, 2)
    assert [(r["attempt"], r["stage"], r["capability"], r["steps"]) for r in kept["returns"]] == [
        (1, 4, "errors", 1200),
        (2, 3, "errors", 2400),
        (2, 3, "", None),
    ]
    assert kept["returns"][1]["note"].startswith("rank 8 becomes 12")
    assert "no room" in kept["returns"][2]["note"]


def test_returns_of_the_command_without_a_run_are_to_stage_4(run, made):
    body = made.verified(run)
    for attempt in body["attempts"]:
        attempt.pop("stage")
    write_report(run / "verify_report.json", signed(body))
    assert {row["stage"] for row in of(run)["retention"]["returns"]} == {4}


def test_other_forms_stand_with_their_own_scores(run, collected):
    (variant,), exports = collected["forms"]["variants"], collected["forms"]["exports"]
    told = json.loads((run / "verify_report.json").read_text())["variants"]["nf4"]
    assert (variant["form"], variant["verdict"]) == ("nf4", "fail")
    for row in variant["rows"]:
        own = told["capabilities"][row["capability"]]
        assert [row[k] for k in ("score", "teacher_score", "ratio", "n", "verdict")] == [
            own[k] for k in ("student_score", "teacher_score", "ratio", "n", "verdict")
        ]
    assert [(e["form"], e["place"], e["verdict"]) for e in exports] == [
        ("gguf, fp16", "exports/gguf", "fail"),
        ("hf, fp16", "exports/plain", "pass"),
    ]
    line = json.loads((run / "exports/gguf/export_report.json").read_text())["lines"][0]
    row = exports[0]["rows"][0]
    assert [row[k] for k in ("score", "ratio", "same_answers", "n")] == [
        line[k] for k in ("score", "ratio_to_teacher", "same_answers", "n")
    ]
    assert exports[1]["note"] == "made of another bundle than the one that lies here"


def test_times_are_of_the_last_start_and_what_it_found_done_counts_as_once(collected):
    times = collected["times"]
    assert [(u["stage"], u["seconds"], u["reused"]) for u in times["units"]] == [
        (2, 31.625, True),
        (4, 58.375, False),
        (4, 11.25, False),
    ]
    assert [(s["stage"], s["name"], s["seconds"], s["units"], s["reused"], s["now"]) for s in times["stages"]] == [
        (1, "registry", 0.875, 0, 0, 0.875),
        (2, "profile", 31.625, 1, 1, 0.125),
        (4, "distill", 58.375 + 11.25, 2, 0, 70.5),
        (6, "package", None, 0, 0, None),  # under way: it is the one that writes this
    ]


def test_events_of_a_run_that_is_at_work_are_read_to_the_last_whole_line(run):
    before = of(run)["times"]
    with (run / "events.jsonl").open("a") as file:
        file.write('{"kind": "unit_en')
    assert of(run)["times"] == before
    with (run / "events.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"events.jsonl, line 22 is no event"):
        of(run)
    (run / "events.jsonl").unlink()
    assert of(run)["times"]["stages"] == [] and of(run)["times"]["rows"]


def test_the_one_command_has_every_option_of_the_run(run, collected):
    whole = collected["commands"]["run"]
    program, command, *words = shlex.split(whole["command"])
    assert (program, command) == ("nexus", "run")
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given == {
        "--run": "runs/a run",
        "--out": "runs/a run/nexus_bundle_v1",
        "--plugins": "text,letters",
        "--datasets": "letters=my data/letters.jsonl",
        "--sample-size": "500",
        "--seed": "42",
    }
    assert CliRunner().invoke(cli, [command, *words, "--help"]).exit_code == 0, "the command knows every flag"
    assert whole["registry"] == "b" * 64
    (run / "scope.json").unlink()
    assert of(run)["commands"]["run"] is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("registry_report.json", '{"teachers": [{"teacher": "ada"}]}'),
        ("scope.json", "{}"),
        ("events.jsonl", '{"kind": "unit_ended"}\n'),
        ("events.jsonl", "[]\n"),
        ("exports/gguf/export_report.json", "{}"),
    ],
)
def test_a_damaged_file_of_the_run_is_named(run, name, content):
    (run / name).write_text(content)
    with pytest.raises(NexusError, match=Path(name).name):
        of(run)
