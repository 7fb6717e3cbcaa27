"""The student's process, watched from outside: how it can end without an answer, and what is believed of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nexus_core.errors import DataError
from nexus_core.gate import cell
from nexus_core.gate.cell import _limit, watch
from nexus_core.gate.guard import Limits
from nexus_core.gate.job import Job, Task, read_job, read_testimony, task, write_job
from nexus_core.types import GenerateOptions, Sample

NOTHING = Limits({}, {}, {}, "/nowhere")


def job(subject: Path, **changes) -> Job:
    plain = {"device": "cpu", "tasks": (), "limits": NOTHING, "probes": {}, "search": (), "result": Path()}
    return Job(subject=subject, **{**plain, **changes})


def test_a_job_reads_as_it_was_written(tmp_path) -> None:
    options = GenerateOptions(max_new_tokens=7, stop=("END", "\n"), batch_size=3)
    one = Task("letters", "letters", ("a b", "ü\n"), options, (1,))
    written = job(tmp_path, tasks=(one,), limits=Limits({"a": "b"}, {}, {"p": "q"}, "x"), probes={"/t": "ada"})
    write_job(written, tmp_path / "job.json")
    assert read_job(tmp_path / "job.json") == written


def test_what_is_not_text_cannot_be_asked() -> None:
    with pytest.raises(DataError, match=r"sample 1 asks with more than text \(audio\)"):
        task("asr", "asr", [Sample("1", "listen", "x", inputs={"audio": b""})], GenerateOptions())


@pytest.mark.slow
def test_a_student_that_cannot_be_read_has_no_answers_and_the_reason_is_told(tmp_path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student/student_arch.json").write_text("{")
    watched = watch(job(tmp_path / "student"), 5, lambda text: None)
    assert watched.testimony is None and watched.tried == ()
    assert "status 1" in watched.failure and "student_arch.json" in watched.failure
    assert [line["event"] for line in watched.probed] == ["socket.__new__"], "the guard stood before it was read"


def test_a_process_that_does_not_end_is_ended(tmp_path) -> None:
    started = time.monotonic()
    watched = watch(job(tmp_path), 0.001, lambda text: None)
    assert watched.failure == "the student's process did not end in 0.001 minutes" and time.monotonic() - started < 20


def test_a_pause_takes_no_time_from_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    over, ended = threading.Event(), threading.Event()
    process.send_signal(signal.SIGSTOP)
    limit = threading.Thread(target=_limit, args=(process, 0.3, over, ended))
    limit.start()
    assert not over.wait(1)
    process.send_signal(signal.SIGCONT)
    assert over.wait(10)
    limit.join()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_an_interrupted_gate_leaves_no_process(tmp_path) -> None:
    told: list[int] = []

    def popen(*arguments, **options):
        process = real(*arguments, **options)
        told.append(process.pid)
        return process

    real, reading = cell.subprocess.Popen, cell.os.fdopen

    def interrupted(*arguments, **options):
        reading(*arguments, **options).close()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell.subprocess, "Popen", popen)
        patch.setattr(cell.os, "fdopen", interrupted)
        with pytest.raises(KeyboardInterrupt):
            watch(job(tmp_path), 5, lambda text: None)
    with pytest.raises(ProcessLookupError):
        os.kill(told[0], 0)


def test_its_environment_is_clean_and_its_folder_is_empty(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NEXUS_REGISTRY", "/secret/registry.yaml")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seen: dict[str, object] = {}
    real = cell.subprocess.Popen

    def popen(command, **options):
        seen.update(options["env"], command=command, inside=list(Path(options["cwd"]).iterdir()))
        return real(command, **options)

    monkeypatch.setattr(cell.subprocess, "Popen", popen)
    watch(job(tmp_path), 0.001, lambda text: None)
    assert not {"NEXUS_REGISTRY", "HTTPS_PROXY", "PYTHONPATH"} & set(seen)
    assert seen["HF_HUB_OFFLINE"] == "1" and seen["inside"] == [] and seen["HOME"] != os.environ.get("HOME")
    assert seen["command"][1:4] == ["-I", "-m", "nexus_core.gate.inmate"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read: JSONDecodeError"),
        ('{"said": {}, "opened": {}}', "cannot be read: KeyError"),
        (
            '{"said": {"a": {"outputs": [1], "truncated": 0, "alone": []}}, "opened": {}, "modules": []}',
            "TypeError: int",
        ),
        ('{"said": {"a": {"outputs": null, "truncated": 0, "alone": []}}, "opened": {}, "modules": []}', "TypeError"),
        ('{"said": [], "opened": {}, "modules": []}', "AttributeError"),
        ("[" * 100_000, "RecursionError"),
    ],
)
def test_a_testimony_that_is_none_is_refused(tmp_path, text, message) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_testimony(tmp_path / "result.json")


def test_lines_before_ready_are_probes_and_lines_after_it_are_attempts() -> None:
    refusal = {"event": "open", "target": "x\ny", "what": "the teacher"}
    lines = [refusal, {"ready": True}, {**refusal, "event": "os.listdir"}, {"done": True}]
    probed, tried = cell._before_and_after(lines)
    assert [line["event"] for line in probed] == ["open"] and [line["event"] for line in tried] == ["os.listdir"]
    assert tried[0]["target"] == "x y", "one line, whatever the path holds"
    assert cell._before_and_after([refusal])[1] == (), "it never came to be asked"


def test_what_is_no_line_of_the_gates_counts_as_an_attempt() -> None:
    said: list[str] = []
    assert cell._line(json.dumps({"task": "a\x1b[2J", "done": 1, "of": 2}), said.append) is None
    assert said == ["a [2J: 1 of 2"]
    assert cell._line("not json", said.append)["what"] == "the pipe to the gate"
    assert cell._line('{"task": "a"}', said.append)["event"] == "pipe"
