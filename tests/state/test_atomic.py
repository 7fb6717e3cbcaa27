"""A write that fails leaves the old file and says which place it was, and a write that succeeds leaves nothing else."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nexus_core.atomic import Unwritable, check_writable, make_directory, write_atomic, writing
from nexus_core.errors import DataError, UsageError
from nexus_core.testing.tiny import byte_tokenizer


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the system refuses the rest, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_replaces_the_content_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old, and longer")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_before_the_rename_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    with room(100), pytest.raises(Unwritable, match=rf"^{path} cannot be written: File too large") as error:
        write_atomic(path, b"new" * 100)
    assert "make room" in error.value.hint and isinstance(error.value.__cause__, OSError)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_atomic(path, b"newer")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file/a.json", tmp_path / "file/deep/a.json"):
        with pytest.raises(Unwritable, match=f"^{path} cannot be written: Not a directory") as error:
            write_atomic(path, b"x")
        assert "something else lies there" in error.value.hint
    with pytest.raises(Unwritable, match="folder cannot be written: Is a directory"):
        write_atomic(tmp_path / "folder", b"x")
    with pytest.raises(Unwritable, match=r"nowhere/a.json cannot be written: No such file") as error:
        write_atomic(tmp_path / "nowhere/a.json", b"x")
    assert error.value.hint.startswith("create the directory")
    for path in (tmp_path / "file", tmp_path / "file/deep"):
        with pytest.raises(Unwritable, match=f"{path} cannot be written"):
            make_directory(path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_place_without_the_right_to_write_is_said_before_the_work(tmp_path: Path) -> None:
    place = next((p for p in (Path("/proc"), Path("/sys")) if p.is_dir()), None)  # refused to everybody, root as well
    if place is None:
        pytest.skip("this system has no place that nobody can write")
    with pytest.raises(Unwritable, match=f"{place / 'a.json'} cannot be written"):
        write_atomic(place / "a.json", b"x")
    with pytest.raises(Unwritable, match=f"{place / 'a.json'} cannot be written"):
        check_writable(place / "a.json")
    check_writable(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="nowhere is no directory"):
        check_writable(tmp_path / "nowhere/a.json")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if os.geteuid():
        with pytest.raises(Unwritable, match="Permission denied") as error:
            check_writable(closed / "a.json")
        assert "correct the permissions" in error.value.hint


def test_what_libraries_say_in_words_of_their_own_is_understood(tmp_path: Path) -> None:
    """safetensors and tokenizers are written in Rust, and neither raises an OSError."""
    with (
        room(1000),
        pytest.raises(Unwritable, match=r"out cannot be written: File too large"),
        writing(tmp_path / "out"),
    ):
        save_file({"a": torch.zeros(1000)}, tmp_path / "a.safetensors")
    with (
        room(1000),
        pytest.raises(Unwritable, match=r"out cannot be written: File too large"),
        writing(tmp_path / "out"),
    ):
        byte_tokenizer().save_pretrained(tmp_path / "tokenizer")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        DataError("a file is damaged (os error 28)"),
        BrokenPipeError(errno.EPIPE, "a reader is gone"),
    ],
)
def test_what_is_no_refusal_stays_what_it_is(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as found, writing(tmp_path):
        raise error
    assert found.value is error
