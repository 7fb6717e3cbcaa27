"""A directory is written beside its place by one process at a time, and a killed one leaves no trouble."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nexus_core.atomic import Unwritable
from nexus_core.draft import drafted
from nexus_core.errors import StateError
from nexus_core.lock import held

WRITE = """
import sys, time
from pathlib import Path
from nexus_core.draft import drafted
with drafted(Path(sys.argv[1])) as draft:
    (draft / "part").mkdir()
    (draft / "part/file").write_text("half")
    print("at work", flush=True)
    time.sleep(60)
"""


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_what_is_renamed_stays_and_nothing_else(tmp_path: Path) -> None:
    with drafted(tmp_path / "out") as draft:
        (draft / "file").write_text("whole")
        draft.rename(tmp_path / "out")
    assert names(tmp_path) == ["out"] and (tmp_path / "out/file").read_text() == "whole"
    with drafted(tmp_path / "other"):
        pass
    with pytest.raises(ValueError, match="a bug"), drafted(tmp_path / "other") as draft:
        (draft / "file").write_text("half")
        raise ValueError("a bug")
    assert names(tmp_path) == ["out"]


def test_the_second_of_two_is_refused_and_the_first_not_disturbed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with drafted(out) as draft:
        (draft / "file").write_text("whole")
        with pytest.raises(StateError, match=f"{out} is being written by another process"), drafted(out):
            raise AssertionError("two at once")
        assert (draft / "file").read_text() == "whole"
        with drafted(tmp_path / "elsewhere"):
            pass
        draft.rename(out)
        with drafted(out) as second:  # the first is in place: the next one may begin, and is left alone
            (second / "next").write_text("")
            second.rename(tmp_path / "next")
    assert names(tmp_path) == ["next", "out"]


def test_the_first_ones_end_does_not_take_the_seconds_draft_away(tmp_path: Path) -> None:
    first = drafted(tmp_path / "out")
    first.__enter__().rename(tmp_path / "out")
    with drafted(tmp_path / "out") as draft:
        first.__exit__(None, None, None)
        assert draft.is_dir()


def test_a_killed_one_holds_nothing_and_is_swept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    with pytest.raises(StateError, match="another process"), drafted(out):
        raise AssertionError("two at once")
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    assert names(tmp_path) == [".out.draft"]
    with drafted(out) as draft:
        assert list(draft.iterdir()) == []
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritable, match="file/out cannot be written"), drafted(tmp_path / "file/out"):
        raise AssertionError


def test_a_lock_goes_where_its_file_goes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with held(tmp_path / "a"):
        (tmp_path / "a").rename(tmp_path / "b")
        with pytest.raises(BlockingIOError), held(tmp_path / "b"):
            raise AssertionError
    with held(tmp_path / "b"):
        pass
