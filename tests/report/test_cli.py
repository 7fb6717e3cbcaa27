"""`nexus report`: two files that say the same, beside the run or elsewhere."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from nexus_core.atomic import Unwritable
from nexus_core.cli.main import cli
from nexus_core.errors import NexusError
from nexus_core.lock import ProcessLock
from nexus_core.report.page import render


def report(*arguments: object):
    return CliRunner().invoke(cli, ["report", *map(str, arguments)], catch_exceptions=False)


def test_it_writes_the_page_and_its_figures(run):
    result = report(run)
    assert result.exit_code == 0
    assert (
        "verdict: fail" in result.output and "worst capability: errors, 1.500 of its teacher's score" in result.output
    )
    document = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert (run / "report.html").read_text(encoding="utf-8") == render(document)


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    for name in ("one", "two"):
        assert report(run, "--out", tmp_path / name).exit_code == 0
    for name in ("report.html", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not (run / "report.html").exists()


def test_json_is_the_document_alone(run, tmp_path):
    result = report(run, "--out", tmp_path / "out", "--json", "--answers", "0")
    document = json.loads(result.stdout)
    assert document == json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert document["answers"]["absent"] == "no answers were asked for"


def test_an_empty_run_is_reported_as_what_it_is(tmp_path):
    result = report(tmp_path, "--answers", "0")
    assert "verdict: the student was not verified" in result.output
    assert "not in it: trainings: nothing was taught (nexus distill --run" in result.output


def test_while_another_command_holds_the_run_only_another_place_is_written(run, tmp_path):
    with ProcessLock(run / ".lock", "the run", "nexus distill"):
        with pytest.raises(NexusError, match="nexus distill"):
            report(run, "--answers", "0")
        assert not (run / "report.html").exists()
        assert report(run, "--out", tmp_path / "out", "--answers", "0").exit_code == 0


def test_a_place_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "file").write_text("")
    for out in ("/proc/page", tmp_path / "file/page"):
        with pytest.raises(Unwritable, match=f"{out} cannot be written"):
            report(run, "--out", out, "--answers", "0")


def test_a_run_that_is_not_there_is_wrong_usage(tmp_path):
    assert CliRunner().invoke(cli, ["report", str(tmp_path / "nothing")]).exit_code == 2
