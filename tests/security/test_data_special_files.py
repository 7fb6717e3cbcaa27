"""Things with the name of a data file that are none: opening them must neither hang nor read something else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nexus_core.data import StreamingDataLoader
from nexus_core.errors import DataError

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
ROW = '{"input": "a", "target": "b"}\n'


def error_of(path: Path) -> str:
    """What a fresh interpreter says, killed if it hangs: a hang inside this one could not be stopped."""
    code = "import sys; from nexus_core.data import StreamingDataLoader; list(StreamingDataLoader(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=20)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.zip"])
def test_a_fifo_is_refused_by_name(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert f"{name}: not a regular file" in error_of(tmp_path / name)


def test_a_link_to_a_fifo_a_device_and_a_socket_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "fifo")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for name in ("link.jsonl", "zero.jsonl"):
        with pytest.raises(DataError, match=f"{name}: not a regular file"):
            StreamingDataLoader(tmp_path / name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.jsonl"))
        with pytest.raises(DataError, match="not a regular file"):
            StreamingDataLoader(tmp_path / "s.jsonl")


@pytest.mark.parametrize("name", ["b.jsonl", "config.json", "README.md", "dataset_infos.json"])
def test_a_fifo_in_a_folder_is_left_out_and_counted(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jsonl").write_text(ROW, "utf-8")
    os.mkfifo(tmp_path / name)
    code = "import sys; from nexus_core.data import StreamingDataLoader as L; loader = L(sys.argv[1]); "
    code += "print(len(list(loader)), loader.skipped)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=20)
    assert done.stdout == "1 {'not a regular file': 1}\n", done.stderr


@pytest.mark.parametrize("source", ["", "  ", "file://"])
def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (tmp_path / "secret.jsonl").write_text(ROW, "utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="empty"):
        StreamingDataLoader(source)
    assert len(list(StreamingDataLoader("."))) == 1
