"""The stream of events: what is written, in which order, and what happens where nothing can be written."""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from pathlib import Path

import pytest

from nexus_core.errors import DataError, NexusError
from nexus_core.pipeline import events as module
from nexus_core.pipeline.events import Events, Journal, read_events
from nexus_core.pipeline.live import watching


class Memory:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.taken, self.ticks, self.closed = [], 0, False

    def take(self, event, written):
        self.taken.append((event, written))
        return True

    def tick(self):
        self.ticks += 1

    def close(self):
        self.closed = True


def test_every_event_is_written_in_order_as_json(tmp_path):
    before = threading.enumerate()
    with watching("plain", tmp_path) as events:
        events.emit("run_started", plan=[{"unit": "architect", "stage": 3, "estimate": 1.5, "done": False}])
        events.emit("unit_progress", unit="architect", done=1, total=None, loss=math.nan)
        events.emit("run_ended", status=0, bundle=tmp_path / "nexus_bundle_v1")
    assert threading.enumerate() == before
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["run_started", "unit_progress", "run_ended"]
    assert lines[1]["loss"] == "nan"
    assert lines[2]["bundle"] == f"{tmp_path}/nexus_bundle_v1"
    assert abs(lines[0]["at"] - time.time()) < 60
    assert [event.kind for event in read_events(tmp_path / "events.jsonl")] == [line["kind"] for line in lines]


def test_a_second_start_goes_on_below_and_drops_what_a_killed_one_did_not_finish(tmp_path):
    for torn in ("", '{"kind": "unit_said", "at"'):
        with watching("plain", tmp_path) as events:
            events.emit("resumed")
        with (tmp_path / "events.jsonl").open("a") as file:
            file.write(torn)
    assert len(read_events(tmp_path / "events.jsonl")) == 2
    with watching("plain", tmp_path) as events:
        events.emit("warning", text="é")
    assert [event.kind for event in read_events(tmp_path / "events.jsonl")] == ["resumed", "resumed", "warning"]


def test_a_file_of_nothing_but_a_torn_line(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * 100)
    Journal(path).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("line", ["[]", "{", '{"kind": "x"}', '{"kind": "x", "at": "now"}', "[" * 100_000, "\xff"])
def test_a_line_that_is_no_event_is_named(tmp_path, line):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"kind": "resumed", "at": 1}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match=r"events\.jsonl, line 2 is no event"):
        read_events(path)


def test_no_file_is_no_events(tmp_path):
    assert read_events(tmp_path / "events.jsonl") == []


def test_flush_returns_when_everything_before_is_written(tmp_path):
    with watching("plain", tmp_path) as events:
        for number in range(500):
            events.emit("unit_said", unit="x", text=str(number))
        events.flush()
        assert len(read_events(tmp_path / "events.jsonl")) == 500


def test_progress_that_comes_fast_is_shown_and_written_once_a_second_and_at_its_end(tmp_path):
    memory = Memory()
    events = Events([memory])
    events.open()
    for done in range(1, 201):
        events.emit("unit_progress", unit="x", done=done, total=200)
    events.emit("unit_progress", unit="y", done=1, total=2)
    events.close()
    assert [event.facts["done"] for event, _ in memory.taken] == [*range(1, 201), 1]
    assert [event.facts["done"] for event, written in memory.taken if written] == [1, 200, 1]
    assert memory.closed


def test_a_sign_of_life_comes_when_nothing_else_does(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 0.3)
    memory = Memory()
    events = Events([memory])
    events.open()
    events.emit("unit_started", unit="architect", stage=3)
    time.sleep(1.1)
    events.close()
    beats = [event for event, _ in memory.taken if event.kind == "heartbeat"]
    assert len(beats) in (2, 3)
    assert {beat.facts["unit"] for beat in beats} == {"architect"}
    assert 0.25 < beats[0].facts["seconds"] < 1
    assert 5 < beats[0].facts["memory_mb"] < 100_000


def test_an_event_without_its_facts_is_refused_where_it_is_emitted():
    with pytest.raises(AssertionError):
        Events([]).emit("unit_progress", unit="x", done=1)


def test_a_handler_may_emit_in_the_midst_of_an_event(start):
    running = start("burst", wait=False)
    status, _, err = running.end(20)
    assert status == 0, err
    said = [event.facts for event in running.events() if event.kind == "unit_said"]
    assert [int(facts["text"]) for facts in said if facts["unit"] == "main"] == list(range(4000))
    assert sum(facts["unit"] == "handler" for facts in said) > 3


def test_a_disk_that_is_full_ends_the_run_with_its_reason(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").symlink_to("/dev/full")  # every write to it fails as on a full disk
    status, _, err = start("steps", wait=False).end(20)
    assert status == 1
    assert "error: the run's events cannot be written (No space left on device)\nhint:  make room" in err
    assert "Traceback" not in err


def test_a_disk_that_is_full_at_the_very_end_is_an_error_too(tmp_path):
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(NexusError, match="No space left"), watching("plain", tmp_path) as events:
        events.emit("resumed")


def test_an_error_of_the_run_is_not_hidden_by_one_of_its_display(tmp_path):
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(ZeroDivisionError), watching("plain", tmp_path) as events:
        events._queue.put(module.Event("resumed", 0.0))
        raise ZeroDivisionError


@pytest.mark.parametrize("what", ["there is no such directory", "a directory is in its place"])
def test_a_place_where_no_events_can_be_written(tmp_path, what):
    if what.startswith("a "):
        (tmp_path / "events.jsonl").mkdir()
    run = tmp_path if what.startswith("a ") else tmp_path / "nowhere"
    before = threading.enumerate()
    with pytest.raises(NexusError, match=r"events cannot be written to .*events\.jsonl"), watching("plain", run):
        raise AssertionError("it began")
    assert threading.enumerate() == before


def test_a_display_that_breaks_ends_the_run_instead_of_leaving_it_in_the_dark(site):
    ended = site.python(
        """
        import time
        from nexus_core.pipeline.events import Events
        from nexus_core.pipeline.pausing import Halted
        class Broken:
            def take(self, event, written): raise ValueError("a fault of ours")
            def tick(self): pass
            def close(self): pass
        events = Events([Broken()])
        events.open()
        events.emit("resumed")
        time.sleep(0.3)
        try:
            events.emit("resumed")
        except Halted as halted:
            print(halted.error.message)
        events.flush()
        events.close()
        """
    )
    assert ended.stdout == "the display has failed\n"
    assert "ValueError: a fault of ours" in ended.stderr


def test_the_clock_of_the_run_leaves_out_its_pauses():
    events = Events([])
    begun = events.clock()
    events.brake.hold("test", "because")
    threading.Timer(0.3, events.brake.release, ["test"]).start()
    told = []
    events.brake.wait(told.append)
    assert told == ["because"]
    assert events.clock() - begun < 0.2


def test_nothing_of_this_needs_torch_or_a_display(site):
    ended = site.python("import sys, nexus_core.pipeline.live; print({'torch', 'rich', 'numpy'} & set(sys.modules))")
    assert ended.stdout == "set()\n", (ended.stderr, sys.version, Path.cwd())


def test_the_page_names_every_kind_with_its_facts():
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "watch.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) ?\|$", page, re.MULTILINE))
    assert list(rows) == list(module.FACTS)
    for kind, facts in module.FACTS.items():
        assert [fact for fact in facts if f"`{fact}`" not in rows[kind]] == []
