"""The guard around a student's process, without the student: each way around it is tried, told and refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_core.registry.hiding import MARK

JAIL = """
import contextlib, os, sys
from pathlib import Path
from nexus_core.gate.guard import Guard, Limits
place, pipe = Path(sys.argv[1]), int(sys.argv[2])
limits = Limits(
    {str(place / "teacher"): "the teacher", str(place / "run"): "the run"},
    {str(place): "the directory around a teacher"},
    {"nexus_teacher_decoy": "a teacher plugin", "colorsys": "a teacher plugin"},
    str(place / "run/student"),
)
os.chdir(place / "work")
Guard(limits, pipe).install()
"""


def lay_out(place: Path) -> Path:
    for name in ("teacher", "run/student", "run/signals", "work", f".other{MARK}0"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_text("secret")
    (place / "work/link").symlink_to(place / "teacher/file")
    (place / "work/folder").symlink_to(place / "teacher")
    return place


def jail(place: Path, code: str) -> tuple[list[dict[str, str]], subprocess.CompletedProcess[str]]:
    """Run code behind the guard: what the guard told, and how the process ended."""
    read, write = os.pipe()
    command = [sys.executable, "-I", "-c", JAIL + textwrap.dedent(code), str(place), str(write)]
    with (
        os.fdopen(read) as pipe,
        subprocess.Popen(
            command, pass_fds=(write,), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        os.close(write)
        told = [json.loads(line) for line in pipe]  # while it runs: a pipe holds little
        out, err = process.communicate(timeout=60)
    return told, subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return lay_out(tmp_path)


@pytest.fixture
def jailed(place: Path) -> Callable[[str], tuple[list[dict[str, str]], subprocess.CompletedProcess[str]]]:
    return lambda code: jail(place, code)


WAYS = [
    ('open(place / "teacher/file")', "the teacher"),
    ('open("../teacher/file")', "the teacher"),
    ('open(Path("..", "work", "..", "teacher", "file"))', "the teacher"),
    ('open(b"../teacher/file")', "the teacher"),
    ('open("link")', "the teacher"),
    ('open("folder/file")', "the teacher"),
    ('open("/proc/self/cwd/../teacher/file")', "the teacher"),
    ('os.open(place / "teacher", os.O_RDONLY)', "the teacher"),
    ('os.listdir("../teacher")', "the teacher"),
    ('os.scandir("folder")', "the teacher"),
    ('list(Path("../teacher").glob("*"))', "the teacher"),
    ('os.rename("../teacher", "mine")', "the teacher"),
    ('os.link("../teacher/file", "mine")', "the teacher"),
    ('os.symlink("../teacher/file", "mine"); open("mine")', "the teacher"),
    ('import shutil; shutil.copytree("../teacher", "mine")', "the teacher"),
    ('import sqlite3; sqlite3.connect("../teacher/file")', "the teacher"),
    ('open("../teacher/new", "w")', "the teacher"),
    ('open("../run/signals/file")', "the run"),
    ('os.listdir("..")', "the directory around a teacher"),
    ('os.listdir(os.open("..", os.O_RDONLY))', "the directory around a teacher"),
    (f'open("../.other{MARK}0/file")', "a hidden teacher"),
    ("import nexus_teacher_decoy", "a teacher plugin"),
    ("import colorsys", "a teacher plugin"),
    ("import socket; socket.socket()", "the network"),
    ('import socket; socket.getaddrinfo("localhost", 80)', "the network"),
    ('import socket; socket.create_connection(("127.0.0.1", 9))', "the network"),
    ("import socket; socket.socketpair()", "the network"),
    ('import urllib.request; urllib.request.urlopen("http://127.0.0.1:9/")', "the network"),
    ('import subprocess; subprocess.run(["true"])', "another process"),
    ('os.system("true")', "another process"),
    ('os.execv("/bin/true", ["true"])', "another process"),
    ('os.posix_spawn("/bin/true", ["true"], {})', "another process"),
    ("os.fork()", "another process"),
    ("import pty; pty.fork()", "another process"),
    ('import ctypes; ctypes.CDLL("../teacher/file")', "the teacher"),
    # Relative to an open directory, of which no event tells: each is looked at from all that are open.
    ('os.open("teacher/file", os.O_RDONLY, dir_fd=os.open(place, os.O_RDONLY))', "the teacher"),
    ('os.open("../signals/file", os.O_RDONLY, dir_fd=os.open("../run/student", os.O_RDONLY))', "the run"),
    ('os.rename("teacher", "work/mine", src_dir_fd=os.open(place, os.O_RDONLY))', "the teacher"),
    ('os.link("teacher/file", "mine", src_dir_fd=os.open(place, os.O_RDONLY))', "the teacher"),
    ('os.chdir(place)\ntry: os.listdir()\nfinally: os.chdir("work")', "the directory around a teacher"),
]


@pytest.fixture(scope="module")
def told_of_ways(tmp_path_factory) -> dict[str, list[str]]:
    """What was told of each way, all of them gone in one process, one after the other. Each wants to hide that it failed."""
    place = lay_out(tmp_path_factory.mktemp("place"))
    going = """
    import json
    for way in json.loads((place / "work/ways.json").read_text()):
        with contextlib.suppress(Exception):
            exec(way)
        os.write(pipe, (json.dumps({"gone": way}) + "\\n").encode())
    print("went on", flush=True)
    """
    (place / "work/ways.json").write_text(json.dumps([way for way, _ in WAYS]))
    told, ended = jail(place, going)
    assert ended.stdout == "went on\n", ended.stderr
    found: dict[str, list[str]] = {}
    since: list[str] = []
    for line in told:
        if "gone" in line:
            found[line["gone"]], since = since, []
        else:
            since.append(line["what"])
    return found


@pytest.mark.parametrize(("way", "what"), WAYS)
def test_each_way_is_refused_and_told_though_the_code_hides_it(told_of_ways, way, what) -> None:
    assert told_of_ways[way][:1] == [what]


def test_what_is_refused_is_an_error_that_says_so(jailed) -> None:
    told, ended = jailed('open("../teacher/file")')
    assert ended.returncode == 1 and "the teacher is out of reach here" in ended.stderr
    assert told == [{"event": "open", "target": "../teacher/file", "what": "the teacher"}]


@pytest.mark.parametrize(
    "code",
    [
        'assert open(place / "run/student/file").read() == "secret"',  # the subject lies in the run
        'os.listdir(place / "run/student")',
        'open("own", "w").write("x"); os.listdir(".")',
        "import json, socket; socket.gethostname()",
        "import tempfile; tempfile.TemporaryDirectory(dir=place / 'work').cleanup()",
    ],
)
def test_what_a_student_needs_is_not_refused(jailed, code) -> None:
    told, ended = jailed(code)
    assert told == [] and ended.returncode == 0, ended.stderr


def test_a_student_that_closes_the_pipe_ends_at_its_next_attempt(jailed) -> None:
    told, ended = jailed(
        'os.close(pipe)\nwith contextlib.suppress(BaseException):\n    open("../teacher/file")\nprint("x")'
    )
    assert told == [] and ended.returncode == 70 and ended.stdout == ""


def test_the_hook_cannot_be_taken_out(jailed) -> None:
    told, _ = jailed(
        """
        import gc
        sys.addaudithook(lambda *_: None)
        sys.meta_path.clear()
        for found in gc.get_objects():
            if isinstance(found, Guard):
                found._see = lambda *_: None
        with contextlib.suppress(Exception):
            open("../teacher/file")
        """
    )
    assert [line["what"] for line in told] == ["the teacher"]


def test_a_long_path_is_told_in_one_line(jailed) -> None:
    told, _ = jailed('with contextlib.suppress(Exception):\n    open("../teacher/" + "x" * 200_000)')
    assert len(told) == 1 and len(told[0]["target"]) == 400
