"""Teachers are away while the student is asked, and back afterwards, whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nexus_core.errors import StateError, UsageError
from nexus_core.gate.isolation import JOURNAL, out_of_reach, restore
from nexus_core.registry.hiding import MARK, gate_lock, hidden_places, recover
from nexus_core.registry.model import Origin, TeacherRow
from nexus_core.registry.paths import resolve_path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A run, a student and two teachers: a directory, and one file."""
    for name in ("run/student", "models/ada"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models/ada/model.safetensors").write_text("weights")
    (tmp_path / "models/bob.gguf").write_text("weights")
    return tmp_path


def teachers(place: Path) -> dict[str, Path]:
    return {"ada": place / "models/ada", "bob": place / "models/bob.gguf"}


def whole(place: Path) -> bool:
    """Every teacher is back, and nothing else was left beside them."""
    names = sorted(path.name for path in (place / "models").iterdir())
    return names == ["ada", "bob.gguf"] and (place / "models/ada/model.safetensors").read_text() == "weights"


def test_inside_they_are_gone_and_afterwards_they_are_back(place) -> None:
    with out_of_reach(place / "run", teachers(place), place / "run/student"):
        for path in teachers(place).values():
            with pytest.raises(FileNotFoundError):
                os.open(path, os.O_RDONLY)
        moved = json.loads((place / "run" / JOURNAL).read_text())["moved"]
        assert {Path(p).name for p in moved} == {"ada", "bob.gguf"} and all(Path(h).exists() for h in moved.values())
    assert whole(place) and not (place / "run" / JOURNAL).exists()


def test_two_runs_hide_under_different_names(place) -> None:
    seen = []
    for _ in range(2):
        with out_of_reach(place / "run", teachers(place), place / "run/student"):
            seen += hidden_places(place / "models/ada")
    assert len(set(seen)) == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_puts_them_back(place, error) -> None:
    with pytest.raises(error), out_of_reach(place / "run", teachers(place), place / "run/student"):
        raise error
    assert whole(place) and not (place / "run" / JOURNAL).exists()


HIDE = """
import sys, time
from pathlib import Path
from nexus_core.gate.isolation import out_of_reach
place = Path(sys.argv[1])
with out_of_reach(place / "run", {"ada": place / "models/ada", "bob": place / "models/bob.gguf"}, place / "run/student"):
    print("hidden", flush=True)
    time.sleep(60)
"""


def gate(place: Path) -> subprocess.Popen[str]:
    """A process that has the teachers out of reach."""
    process = subprocess.Popen([sys.executable, "-c", HIDE, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "hidden\n"
    assert not (place / "models/ada").exists()
    return process


def end(process: subprocess.Popen[str], number: int) -> int:
    process.send_signal(number)
    status = process.wait(30)
    process.stdout.close()
    return status


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 1)])
def test_a_signal_puts_them_back(place, number, status) -> None:
    assert end(gate(place), number) in (status, -number)
    assert whole(place) and not (place / "run" / JOURNAL).exists()


def test_after_kill_9_the_journal_puts_them_back(place) -> None:
    assert end(gate(place), signal.SIGKILL) == -signal.SIGKILL
    assert not (place / "models/ada").exists() and (place / "run" / JOURNAL).exists()
    assert restore(place / "run") == [place / "models/ada", place / "models/bob.gguf"]
    assert whole(place) and not (place / "run" / JOURNAL).exists()
    assert restore(place / "run") == []


def test_after_kill_9_whoever_misses_a_teacher_finds_it(place) -> None:
    end(gate(place), signal.SIGKILL)
    presence = resolve_path(row(place, "models/ada"))
    assert presence.path == place / "models/ada" and presence.reason == "present"
    assert (place / "models/ada/model.safetensors").exists() and hidden_places(place / "models/ada") == []
    assert restore(place / "run") == [place / "models/bob.gguf"], "what is back already is no problem"
    assert whole(place)


def test_a_teacher_inside_a_package_is_found_again_too(place, monkeypatch) -> None:
    package = place / "site/nexus_teacher_mine"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (place / "models/ada").rename(package / f"weights/.small{MARK}0")
    monkeypatch.syspath_prepend(str(place / "site"))
    presence = resolve_path(row(place, "package:nexus_teacher_mine/weights/small"))
    assert presence.path == package / "weights/small" and presence.path.is_dir()
    assert resolve_path(row(place, "package:nexus_teacher_mine/weights/other")).reason == (
        "the package nexus_teacher_mine has no weights/other"
    )


def test_while_a_gate_is_at_work_nobody_takes_a_teacher_back(place) -> None:
    with gate_lock(place / "models/ada"):
        (place / "models/ada").rename(place / f"models/.ada{MARK}0")
        assert "while `nexus verify` asks a student" in resolve_path(row(place, "models/ada")).reason
    assert recover(place / "models/ada") == "" and (place / "models/ada").is_dir()


def test_the_lock_is_the_teacher_and_not_a_file_in_somebodys_tmpdir(place, monkeypatch, tmp_path_factory) -> None:
    process = gate(place)
    try:
        for name in ("TMPDIR", "TEMP", "TMP"):
            monkeypatch.setenv(name, str(tmp_path_factory.mktemp("other")))
        script = "import sys; from pathlib import Path; from nexus_core.registry.hiding import recover; "
        script += "print(recover(Path(sys.argv[1])))"
        command = [sys.executable, "-c", script, str(place / "models/ada")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "out of reach while `nexus verify` asks a student" in said
        assert not (place / "models/ada").exists()
    finally:
        end(process, signal.SIGTERM)
    assert whole(place)


def test_two_gates_do_not_take_one_teacher(place) -> None:
    process = gate(place)
    try:
        (place / "other/student").mkdir(parents=True)
        with (
            pytest.raises(StateError, match="another `nexus verify`"),
            out_of_reach(place / "other", teachers(place), place / "other/student"),
        ):
            raise AssertionError("two gates at once")
        with pytest.raises(StateError, match="another `nexus verify`"):
            restore(place / "run")
    finally:
        end(process, signal.SIGTERM)
    assert whole(place)


def test_what_came_to_lie_there_meanwhile_is_not_overwritten(place) -> None:
    with (
        pytest.raises(StateError, match="something lies there already") as error,
        out_of_reach(place / "run", teachers(place), place / "run/student"),
    ):
        (place / "models/ada").mkdir()
    assert MARK in error.value.hint and (place / "models/bob.gguf").exists()
    (place / "models/ada").rmdir()
    assert restore(place / "run") == [place / "models/ada"] and whole(place)


def test_a_teacher_that_somebody_puts_back_meanwhile_leaves_no_verdict(place) -> None:
    with (
        pytest.raises(StateError, match=r"models/ada was there again .* no verdict"),
        out_of_reach(place / "run", teachers(place), place / "run/student"),
    ):
        (hidden,) = hidden_places(place / "models/ada")
        hidden.rename(place / "models/ada")
    assert whole(place) and not (place / "run" / JOURNAL).exists()


def test_a_teacher_that_cannot_be_moved_leaves_no_verdict(place) -> None:
    names = {"ada": place / "models/ada", "gone": place / "models/gone"}
    with (
        pytest.raises(StateError, match=r"cannot be moved out of reach .* no verdict"),
        out_of_reach(place / "run", names, place / "run/student"),
    ):
        raise AssertionError("the student was asked")
    assert whole(place) and not (place / "run" / JOURNAL).exists()


def test_a_teacher_around_the_student_or_around_python_is_refused(place) -> None:
    for name, around, what in [("run", place / "run", "the student"), ("env", Path(sys.prefix), "Python")]:
        with (
            pytest.raises(UsageError, match=f"{what} lies in it"),
            out_of_reach(place, {name: around}, place / "run/student"),
        ):
            raise AssertionError
    assert whole(place)


def test_a_link_to_a_teacher_moves_what_it_points_to(place) -> None:
    (place / "links").mkdir()
    (place / "links/ada").symlink_to(place / "models/ada")
    with out_of_reach(place / "run", {"ada": place / "links/ada"}, place / "run/student"):
        assert not (place / "models/ada").exists() and not (place / "links/ada").exists()
    assert whole(place) and (place / "links/ada/model.safetensors").exists()


def test_a_journal_that_cannot_be_read_is_said(place) -> None:
    (place / "run" / JOURNAL).write_text("{")
    with pytest.raises(StateError, match="cannot be read"):
        restore(place / "run")


def row(place: Path, path: str) -> TeacherRow:
    origin = Origin("registry", place / "registry.yaml", 1)
    return TeacherRow("ada", "Ada", "1B", "Language model", "sums", "text", ("sums",), origin, path=path)


def test_the_lock_of_a_killed_gate_is_free_at_once(place) -> None:
    end(gate(place), signal.SIGKILL)
    started = time.monotonic()
    assert recover(place / "models/ada") == "" and time.monotonic() - started < 5
    assert restore(place / "run") and whole(place)
