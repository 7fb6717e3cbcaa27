"""What a person sees, on a real pseudo-terminal, on a pipe and as JSON; the terminal is as it was, whatever happens."""

from __future__ import annotations

import json
import os
import re
import signal
import termios
import time

import pytest

from nexus_core.pipeline import board as board_module
from nexus_core.pipeline.board import Board, Work, duration, figure_words, progress_words
from nexus_core.pipeline.events import Event
from nexus_core.pipeline.live import watching


def bare(text):
    """Without colours and moves."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


# --- a terminal --------------------------------------------------------------------------------------------------------


def test_a_terminal_shows_stages_units_rate_time_left_loss_and_retention(start, terminal):
    running = start("short", "auto", terminal)
    assert running.process.wait(20) == 0
    shown = bare(terminal.read(b"threads:"))
    assert "0 of 2 units" in shown
    assert "1 of 2 units" in shown
    assert re.search(r"4 distill +\d\.\d s  at work", shown)
    assert re.search(r"4 distill +1\.0 s\s", shown)
    assert re.search(r"\d of 5 samples, [\d.]+/s, 0\.\d s left", shown)
    assert "40 of 100 steps" in shown
    assert re.search(r"loss 0\.5, worst retention 0\.943 \(math\)", shown)
    assert re.search(r"about 1:0\d left", shown)
    assert "PASS" in shown
    assert terminal.is_as_it_was()


def test_what_others_print_is_above_the_display_and_cannot_rewrite_it(start, terminal):
    running = start("short", "auto", terminal)
    running.process.wait(20)
    shown = terminal.read(b"threads:")
    assert "\r\n" not in shown[: shown.index("nexus run")]
    assert re.search(r"somebody prints this\r\n.*nexus run", shown, re.DOTALL)
    assert "[2Jand a library warns\r\n" in shown
    assert "\x1b[2J" not in shown
    assert "warning: one block was left out" in bare(shown)
    assert "blocks: [bold]2[/bold], 3" in bare(shown)
    assert bare(shown).rstrip().endswith("threads: MainThread")


def test_an_error_leaves_the_terminal_as_it_was(start, terminal):
    running = start("fails", "auto", terminal, wait=False)
    assert running.process.wait(20) == 1
    assert "error: the unit fails\r\nhint:  look" in bare(terminal.read(b"hint:  look"))
    assert terminal.is_as_it_was()


@pytest.mark.parametrize("end", ["key", "SIGTERM", "SIGKILL"])
def test_an_end_from_outside_leaves_the_terminal_as_it_was(start, terminal, end):
    running = start("child", "auto", terminal)
    running.child()
    terminal.read(b"child ")
    if end == "key":
        terminal.type(b"\x03")
    else:
        running.signal(signal.Signals[end])
    assert running.process.wait(10) == {"key": 130, "SIGTERM": 143, "SIGKILL": -9}[end]
    if end != "SIGKILL":
        assert "interrupted" in terminal.read(b"interrupted")
    assert terminal.is_as_it_was()


def test_two_keys_end_it_at_once_on_a_line_of_its_own(start, terminal):
    running = start("orphan", "auto", terminal)
    running.child()
    terminal.type(b"\x03")
    terminal.read(b"once more")
    terminal.type(b"\x03")
    assert running.process.wait(2) == 130
    assert terminal.is_as_it_was()
    assert terminal.read().endswith("\x1b[0m\r\n")


def test_a_terminal_shows_that_and_why_it_is_paused(start, terminal):
    running = start("steps", "auto", terminal)
    running.signal(signal.SIGUSR1)
    terminal.read(b"paused by nexus pause")
    running.signal(signal.SIGUSR2)
    running.until("resumed")
    running.signal(signal.SIGTERM)
    assert running.process.wait(10) == 143


def test_a_terminal_as_small_as_a_stamp(start, terminal):
    termios.tcsetwinsize(terminal.slave, (4, 12))
    assert start("short", "auto", terminal, wait=False).process.wait(20) == 0
    assert terminal.is_as_it_was()


# --- elsewhere ---------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_plain_lines_on_stderr(start):
    status, out, err = start("short", "auto", wait=False).end(20)
    assert status == 0
    assert out == "somebody prints this\nthreads: MainThread\n"
    lines = err.splitlines()
    assert "\x1b" not in err.replace("\x1b[2Jand a library warns", "")
    assert [line for line in lines if not line.startswith("[")] == ["\x1b[2Jand a library warns"]
    wanted = [
        r"2 of 2 units to do, about 1:03",
        r"stage 4: distill",
        r"profile/zoo-math/math: about 3\.0 s",
        r"profile/zoo-math/math: 5 of 5 samples, [\d.]+/s, 0\.0 s left",
        r"profile/zoo-math/math: blocks: \[bold\]2\[/bold\], 3",
        r"profile/zoo-math/math: done in 0\.5 s",
        r"warning: one block was left out",
        r"stage 4 ended after 1\.0 s",
        r"ended: PASS",
    ]
    for pattern in wanted:
        assert any(re.fullmatch(rf"\[ *\d+\.\d s\] {pattern}", line) for line in lines), pattern


def test_a_dumb_terminal_gets_plain_lines(start, terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    start("short", "auto", terminal, wait=False)
    assert re.search(r"\[ +\d\.\d s\] stage 4: distill\r\n", terminal.read(b"threads:"))


def test_json_is_on_stdout_alone_and_is_what_is_in_the_file(start):
    running = start("short", "json", wait=False)
    status, out, err = running.end(20)
    assert status == 0
    *lines, last = out.splitlines()
    assert last == "threads: MainThread"  # printed after the block
    assert lines == (running.path / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["verdict"] == "PASS"
    assert "somebody prints this" in err


def test_a_reader_that_goes_away_ends_the_run(start):
    running = start("steps", "json")
    running.process.stdout.close()
    assert running.process.wait(10) == 1
    err = running.process.stderr.read().decode()
    assert "error: the run's events cannot be written (Broken pipe)" in err


def test_nothing_but_json_is_on_stdout_whoever_prints(start):
    status, out, err = start("loud", "json", wait=False).end(20)
    assert status == 0
    assert all(line.startswith("{") for line in out.splitlines()[:-1])
    assert {"a child prints this", "and so do we"} <= set(err.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("work", ["operation", "waits"])
def test_it_is_never_silent_for_five_seconds(start, work):
    running = start(work)
    os.set_blocking(running.process.stderr.fileno(), False)
    last, longest, end = time.monotonic(), 0.0, time.monotonic() + 14
    while time.monotonic() < end:
        if running.process.stderr.read():
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        time.sleep(0.02)
    assert 3 < max(longest, time.monotonic() - last) < 5


def test_without_descriptors_it_writes_to_the_streams_of_the_moment(tmp_path, capsys):
    with watching("auto", tmp_path) as events:
        events.emit("stage_started", stage=3, name="architect")
    with watching("json", tmp_path) as events:
        events.emit("stage_started", stage=4, name="distill")
        print("said")
    out, err = capsys.readouterr()
    assert "stage 3: architect\n" in err
    assert json.loads(out)["name"] == "distill"
    assert err.endswith("said\n")


# --- what is said ------------------------------------------------------------------------------------------------------


@pytest.fixture
def now(monkeypatch):
    """The monotonic clock, which these tests move by hand."""
    time_now = [100.0]
    monkeypatch.setattr(board_module.time, "monotonic", lambda: time_now[0])
    return time_now


def progress(done, total=100, **more):
    return Event("unit_progress", 0.0, {"unit": "u", "done": done, "total": total, "unit_word": "steps", **more})


def test_the_rate_is_of_what_was_done_here_and_not_before_a_resume(now):
    board = Board()
    board.follow(Event("unit_started", 0.0, {"unit": "u", "stage": 4}))
    board.follow(progress(50))
    assert progress_words(board.work) == "50 of 100 steps"
    now[0] += 5
    board.follow(progress(60))
    assert progress_words(board.work) == "60 of 100 steps, 2/s, 20.0 s left"
    now[0] += 4
    assert progress_words(board.work) == "60 of 100 steps, 2/s, 16.0 s left"
    board.follow(Event("paused", 0.0, {"reason": "by nexus pause"}))
    now[0] += 1000
    board.follow(Event("resumed", 0.0, {}))
    board.follow(progress(61))
    now[0] += 1
    board.follow(progress(65))
    assert progress_words(board.work) == "65 of 100 steps, 4/s, 8.8 s left"


def test_another_phase_starts_its_own_rate(now):
    work = Work("u")
    for done, total in ((1, 10), (10, 10), (1, 50)):
        work.progress({"done": done, "total": total}, now[0])
        now[0] += 1
    assert work.rate() is None


def test_time_left_takes_the_plan_for_what_is_to_come_and_the_rate_for_what_is_at_work(now):
    board = Board()
    plan = [{"unit": unit, "stage": 2, "estimate": 30, "done": unit == "a"} for unit in "abu"]
    board.follow(Event("run_started", 0.0, {"plan": plan}))
    assert board.left() == 60
    board.follow(Event("unit_started", 0.0, {"unit": "u", "stage": 2, "estimate": 40}))
    now[0] += 10
    assert board.left() == 30 + 30
    board.follow(progress(1))
    now[0] += 1
    board.follow(progress(2))
    assert board.left() == 30 + 98
    board.follow(Event("unit_ended", 0.0, {"unit": "u", "seconds": 11, "reused": False}))
    assert (board.left(), board.units_done) == (30, 2)


def test_figures_that_are_not_told_again_stay(now):
    work = Work("u")
    work.progress({"done": 1, "total": 2, "loss": 0.25, "retention": 0.9, "worst": "code"}, now[0])
    work.progress({"done": 2, "total": 2, "loss": None}, now[0])
    assert figure_words(work) == "loss 0.25, worst retention 0.900 (code)"
    assert figure_words(Work()) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.9, "59.9 s"), (60, "1:00"), (125, "2:05"), (3600, "1:00:00"), (3723, "1:02:03")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
