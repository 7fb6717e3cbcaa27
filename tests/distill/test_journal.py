"""The journal: every step once, in the lines and in the event files, however often the training was cut."""

from __future__ import annotations

import json
import resource
from contextlib import suppress

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from nexus_core.atomic import Unwritable
from nexus_core.distill.journal import Journal, write_summary


def lines(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def drawn(folder, tag):
    """(step, value) of one curve in all event files."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            found += [(event.step, v.tensor.float_val[0]) for v in event.summary.value if v.tag == tag]
    return found


def write(journal, first, last):
    for step in range(first, last + 1):
        journal.step(step, {"loss": float(step), "anchor_error/1": 0.5})


def test_steps_and_events_are_lines_and_curves(tmp_path):
    journal = Journal(tmp_path)
    write(journal, 1, 3)
    journal.event("rollback", 3, cause="loss spike", to=2)
    journal.close()
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3, 3]
    assert lines(tmp_path)[3] == {"event": "rollback", "step": 3, "cause": "loss spike", "to": 2}
    assert drawn(tmp_path, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert drawn(tmp_path, "rollback/to") == [(3, 2.0)]


def test_resuming_cuts_what_came_after_the_checkpoint(tmp_path):
    journal = Journal(tmp_path)
    write(journal, 1, 4)
    marks = journal.marks()
    write(journal, 5, 7)
    journal.close()
    journal = Journal(tmp_path, marks)
    write(journal, 5, 6)
    marks = journal.marks()
    write(journal, 7, 9)
    journal.close()
    journal = Journal(tmp_path, marks)
    write(journal, 7, 8)
    journal.close()
    assert [row["step"] for row in lines(tmp_path)] == list(range(1, 9))
    assert [step for step, _ in drawn(tmp_path, "loss")] == list(range(1, 9))


def test_without_a_checkpoint_everything_begins_anew(tmp_path):
    journal = Journal(tmp_path)
    write(journal, 1, 4)
    journal.close()
    journal = Journal(tmp_path)
    write(journal, 1, 2)
    journal.close()
    assert [row["step"] for row in lines(tmp_path)] == [1, 2]
    assert drawn(tmp_path, "loss") == [(1, 1.0), (2, 2.0)]


def test_a_journal_that_is_shorter_than_its_checkpoint_says_so(tmp_path):
    journal = Journal(tmp_path)
    write(journal, 1, 4)
    marks = journal.marks()
    journal.close()
    (tmp_path / "steps.jsonl").write_text("")
    journal = Journal(tmp_path, {**marks, "events.out.tfevents.gone": 100})
    journal.close()
    assert journal.cut == ["events.out.tfevents.gone", "steps.jsonl"]


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_what_is_not_finite_is_a_word(tmp_path, value, text):
    journal = Journal(tmp_path)
    journal.event("rollback", 1, loss=value)
    journal.close()
    assert lines(tmp_path)[0]["loss"] == text


def test_the_summary_is_json(tmp_path):
    write_summary(tmp_path / "new", {"b": 1, "a": (1, float("nan"))})
    assert json.loads((tmp_path / "new" / "summary.json").read_text()) == {"a": [1, "nan"], "b": 1}


# The event files have a thread of their own, which may meet the full disk first.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_and_a_file_in_the_way_are_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritable, match="file cannot be written: File exists"):
        Journal(tmp_path / "file")
    journal = Journal(tmp_path / "kept")
    write(journal, 1, 100)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # the system refuses what goes beyond
    try:
        with pytest.raises(Unwritable, match=f"{tmp_path / 'kept'} cannot be written: File too large"):
            journal.marks()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with suppress(Unwritable):  # the event files' own thread may have met the full disk, and says so at the end
        journal.close()
    assert [line["step"] for line in lines(tmp_path / "kept")] == list(range(1, 101)), (
        "once there is room, all is there"
    )
