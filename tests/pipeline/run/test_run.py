"""`nexus run` from two teachers to a bundle; stopped, killed, extended, and below its contracts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_from_teachers_to_a_bundle(passed_once, nexus_run) -> None:
    report = json.loads((passed_once.run / "report.json").read_text())
    assert report["retention"]["verdict"] == "pass"
    assert (passed_once.bundle / "manifest.json").is_file()
    assert passed_once.state()["stage"] == 6


def test_the_end_says_what_to_do_with_it_and_a_second_run_does_nothing(passed, nexus_run) -> None:
    ended = nexus_run()
    assert ended.status == 0
    assert passed.did() == []
    assert "try it: nexus infer runs/default/nexus_bundle_v1 --capability" in ended.out
    assert "report: runs/default/report.html" in ended.out


def test_the_same_seed_gives_the_same_bundle(passed_once, world, nexus_run) -> None:
    assert nexus_run("--plugins", "letters,errors").status == 0
    assert world.hashes("nexus_bundle_v1") == passed_once.hashes("nexus_bundle_v1")


def test_a_capability_more_changes_no_byte_of_the_others(world, nexus_run) -> None:
    assert nexus_run("--plugins", "letters", "--stage", 4).status == 0
    before = world.hashes("distill/made/base")
    assert nexus_run("--plugins", "errors").status == 0
    assert world.did() == [
        "profile/bob/errors",
        "architect/errors",
        "distill/errors",
        "distill/router",
        "verify/0",
        "bundle",
        "report",
    ]
    student = world.hashes("student")
    new = {"adapters/errors.safetensors", "router.safetensors"}
    assert set(student) == set(before) | new
    assert [name for name in before if student[name] != before[name]] == ["student_arch.json"]


def test_a_contract_that_is_missed_goes_back_and_is_reported(made, world, nexus_run) -> None:
    with made.small_numbers(world.root, steps=2):
        ended = nexus_run("--plugins", "letters,errors")
    assert ended.status == 3, ended.err
    assert not world.bundle.exists()
    body = json.loads((world.run / "verify_report.json").read_text())
    assert [(attempt["attempt"], attempt["stage"]) for attempt in body["attempts"]] == [(1, 4), (2, 3)]
    assert all(attempt["adapters"] for attempt in body["attempts"])
    page = json.loads((world.run / "report.json").read_text())
    assert page["retention"]["verdict"] == "fail"
    assert (world.run / "report.html").is_file()
    assert "return 2 to stage 3" in ended.out


def test_a_bundle_that_was_changed_is_made_again(passed, nexus_run) -> None:
    before = passed.hashes("nexus_bundle_v1")
    path = next(p for p in sorted((passed.bundle / "adapters").rglob("*letters*")) if p.is_file())
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    assert nexus_run().status == 0
    assert passed.did() == ["bundle"]
    assert passed.hashes("nexus_bundle_v1") == before


def start(made, world, *arguments: str, steps: int = 100) -> subprocess.Popen[str]:
    program = [sys.executable, str(Path(made.__file__)), str(world.root), str(steps), "run", *arguments]
    return subprocess.Popen(
        program,
        cwd=world.here,
        env=made.environment(world),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def at(process: subprocess.Popen[str], words: str, number: int) -> int:
    """Send a signal when the run says these words; its exit status."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            os.kill(process.pid, number)
            break
    else:
        raise AssertionError("".join(said))
    process.communicate(timeout=60)
    return process.returncode


PLACES = [
    "profile/ada/letters: baseline",
    "distill/base: rows",
    "distill/base: 0 of",
    "verify/0: out of reach",
    "bundle: writing",
]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_stopped_anywhere_it_goes_on_to_the_same_bundle(made, passed_once, world, nexus_run, number, status) -> None:
    for words in PLACES:
        assert at(start(made, world, "--plugins", "letters,errors"), words, number) == status
    assert nexus_run().status == 0
    assert world.hashes("nexus_bundle_v1") == passed_once.hashes("nexus_bundle_v1")
    assert sorted(path.name for path in (world.root / "teachers").iterdir()) == ["ada", "bob", "seed"]
