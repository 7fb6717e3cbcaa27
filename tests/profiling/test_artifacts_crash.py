"""Artifacts: whoever is killed, has no room or is not alone leaves the old state or the new one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nexus_core.profiling.artifacts import ArtifactError, ProfileStore


class Killed(BaseException):
    """As a signal: nothing below may swallow it."""


def killed_at(patch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Make the `step`-th operation that changes the disk fail; gives the number of operations seen."""
    seen = 0

    def guard(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            nonlocal seen
            seen += 1
            if seen == step:
                raise Killed
            return real(*arguments, **more)

        return call

    patch.setattr(os, "fsync", guard(lambda _: None))
    patch.setattr(os, "replace", guard(os.replace))
    patch.setattr(shutil, "rmtree", guard(shutil.rmtree))
    patch.setattr(Path, "unlink", guard(Path.unlink))
    patch.setattr(Path, "mkdir", guard(Path.mkdir))
    return lambda: seen


def test_a_writer_killed_at_any_step_leaves_the_old_state_or_the_new_one(made: ModuleType, tmp_path: Path) -> None:
    first, second = made.profile(blocks=(made.block(2),)), made.profile(blocks=(made.block(7),))
    before, after = ProfileStore(tmp_path / "before"), ProfileStore(tmp_path / "after")
    made.put(before, first)
    made.put(after, first, second)
    old, new = made.tree(before.root), made.tree(after.root)
    outcomes: list[bool] = []
    finished = False
    while not finished:
        step = len(outcomes) + 1
        store = ProfileStore(tmp_path / f"run{step}")
        shutil.copytree(before.root, store.root)
        with pytest.MonkeyPatch.context() as patch:
            count = killed_at(patch, step)
            with contextlib.suppress(Killed):
                made.put(store, second)
            finished = count() < step
        assert store.verify() == (), step  # opening it finishes or discards what was begun
        state = made.tree(store.root)
        assert state in (old, new), step
        outcomes.append(state == new)
    assert len(outcomes) > 40
    assert outcomes == sorted(outcomes), "once the change is committed it is never lost"
    assert not outcomes[0] and outcomes[-2]


def test_a_killed_first_write_leaves_nothing_that_hinders_the_next(made: ModuleType, tmp_path: Path) -> None:
    for step in (2, 5, 9):
        store = ProfileStore(tmp_path / str(step))
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, step)
            with pytest.raises(Killed):
                made.put(store, made.profile())
        made.put(store, made.profile())
        assert store.verify() == ()


def test_a_full_disk_is_said_and_leaves_the_old_state(
    made: ModuleType, store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.put(store, made.profile())
    before = made.tree(store.root)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ArtifactError, match="cannot be written \\(No space left on device\\)"):
            made.put(store, made.profile("bob"))
    assert store.verify() == ()
    assert made.tree(store.root) == before


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import made_profile
        store = made_profile.ProfileStore(Path(sys.argv[1]))
        for capability in ("math", "code", "tools"):
            made_profile.put(store, made_profile.profile(sys.argv[2], capability))
        """
    )
    commands = [[sys.executable, "-c", script, str(tmp_path / "out"), teacher] for teacher in ("ada", "bob")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    store = ProfileStore(tmp_path / "out")
    assert len(store.profiles()) == 6
    assert store.verify() == ()


def test_a_directory_that_may_not_be_written_can_be_read(
    made: ModuleType, store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.put(store, made.profile())
    (store.root / ".lock").unlink(missing_ok=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert store.read("ada", "math").teacher == "ada"
    assert store.verify() == ()
    assert not (store.root / ".lock").exists()
    (store.root / ".pending").mkdir()
    with pytest.raises(ArtifactError, match="unfinished change and is read-only"):
        store.read("ada", "math")
