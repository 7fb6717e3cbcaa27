"""The sandbox with programs that mean well, on machines that cannot confine, and its speed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nexus_capability_code import sandbox as module
from nexus_capability_code.sandbox import Call, Program, Sandbox, SandboxError

Make = Callable[..., Path]
Edits = dict[str, Any]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox's kernel layers are Linux's")


def test_values_errors_and_state_come_back() -> None:
    program = Program("seen = []\ndef f(x, y=1):\n    seen.append(x)\n    return {'all': tuple(seen), y: x / 2}", "f")
    with Sandbox(workers=1) as box:
        outcome = box.run(program, [Call("f", [1]), Call("f", [3], {"y": None}), Call("f", ["a"]), Call("g", [])])
    values = [answer.value for answer in outcome.answers]
    assert values[:2] == [{"all": (1,), 1: 0.5}, {"all": (1, 3), None: 1.5}]
    assert outcome.answers[2].error.startswith("TypeError") and outcome.answers[3].error.startswith("NameError")
    assert outcome.stopped == "" and outcome.peak_mb > 1


def test_a_number_too_long_to_be_written_fails_alone() -> None:
    program = Program("def f(x):\n    return 10 ** x", "f")
    with Sandbox(workers=1) as box:
        outcome = box.run(program, [Call("f", [5000]), Call("f", [2]), Call("f", [4000])])
        checked = box.check(program, "try:\n    f(5000)\nexcept RuntimeError:\n    assert f(2) == 100", ["f"])
    long, short, long_enough = outcome.answers
    assert "4300 digits" in long.error and (short.value, long_enough.value) == (100, 10**4000)
    assert outcome.stopped == "" and checked.passed


def test_text_that_is_no_unicode_comes_back() -> None:
    with Sandbox(workers=1) as box:
        outcome = box.run(Program("def f(x):\n    return chr(0xD800) * x", "f"), [Call("f", [1]), Call("f", [2])])
    assert [answer.value for answer in outcome.answers] == ["\ud800", "\ud800\ud800"]


def test_check_mode_passes_right_and_fails_wrong_programs() -> None:
    checking = (
        "def check(c):\n    assert c([1, 2]) == (3, {'n': 2})\n    assert abs(c([0.5])[0] - 0.5) < 1e-6\ncheck(f)"
    )
    right = Program("def f(x):\n    return sum(x), {'n': len(x)}", "f")
    wrong = Program("def f(x):\n    return [sum(x), {'n': len(x)}]", "f")
    with Sandbox(workers=1) as box:
        assert box.check(right, checking, ["f"]).passed
        failed = box.check(wrong, checking, ["f"])
        assert not failed.passed and failed.error.startswith("AssertionError")
        broken = box.check(Program("def f(:", "f"), checking, ["f"])
        assert not broken.passed and "SyntaxError" in broken.error


def test_scratch_files_and_the_standard_library_can_be_used() -> None:
    code = "import fractions, difflib\ndef f(x):\n    open('a.txt', 'w').write(x)\n    return open('a.txt').read() * 2"
    with Sandbox(workers=1) as box:
        if "mount" not in box.layers["namespaces"]:
            pytest.skip("no memory file system here, so nothing is writable")
        assert box.run(Program(code, "f"), [Call("f", ["ab"])]).answers[0].value == "abab"


def test_200_programs_are_fast() -> None:
    program = Program("def f(x):\n    return sum(i for i in range(x))", "f")
    began = time.monotonic()
    with Sandbox() as box:
        outcomes = box.each([lambda: box.run(program, [Call("f", [n]) for n in range(8)])] * 200)
    assert all(len(outcome.answers) == 8 and not outcome.stopped for outcome in outcomes)
    assert time.monotonic() - began < 10


def test_closing_ends_the_servers_and_removes_their_directories() -> None:
    with Sandbox(workers=2) as box:
        servers = list(box._all)
        assert all(Path(server.scratch).is_dir() for server in servers)
    assert all(server.process.poll() is not None and not Path(server.scratch).exists() for server in servers)


def test_a_server_that_dies_is_reported() -> None:
    with Sandbox(workers=1) as box:
        box._all[0].process.kill()
        box._all[0].process.wait()
        with pytest.raises(SandboxError, match="server died"):
            box.run(Program("def f(): pass", "f"), [Call("f", [])])


def test_without_a_kernel_layer_nothing_runs(monkeypatch: pytest.MonkeyPatch, machine: Make, edits: Edits) -> None:
    monkeypatch.delenv(module.WEAK, raising=False)
    monkeypatch.setattr(module, "__file__", str(machine(*edits["nothing"])))
    with pytest.raises(SandboxError, match="cannot be confined") as caught:
        Sandbox(workers=1)
    assert module.WEAK in caught.value.hint


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_weak_mode_is_asked_for_and_logged(
    how: str, monkeypatch: pytest.MonkeyPatch, machine: Make, edits: Edits, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "__file__", str(machine(*edits["nothing"])))
    if how == "environment":
        monkeypatch.setenv(module.WEAK, "1")
    with Sandbox(workers=1, allow_weak=how == "argument") as box:
        assert "only resource limits hold" in caplog.text
        assert box.run(Program("def f(x): return x", "f"), [Call("f", [5])]).answers[0].value == 5
        assert "forbids os.fork" in box.run(Program("import os\nos.fork()", "f"), []).error


def test_a_layer_that_fails_means_that_nothing_is_run(
    monkeypatch: pytest.MonkeyPatch, machine: Make, edits: Edits
) -> None:
    monkeypatch.setattr(module, "__file__", str(machine(*edits["broken Landlock"])))
    with Sandbox(workers=1) as box:
        if not box.layers["landlock"]:
            pytest.skip("no Landlock here")
        with pytest.raises(SandboxError, match=r"nothing was run: .*not implemented"):
            box.run(Program("def f(): pass", "f"), [Call("f", [])])


def test_answers_do_not_depend_on_hash_order_or_on_chance() -> None:
    code = "import random\ndef f(): return list({'a', 'b', 'c', 'd', 'e'}), random.random()"
    told = set()
    for _ in range(3):
        with Sandbox(workers=1) as box:
            told.add(str(box.run(Program(code, "f"), [Call("f", [])]).answers[0].value))
    assert len(told) == 1


def test_importing_the_metric_starts_nothing() -> None:
    heavy = "torch", "yaml", "nexus_capability_code.sandbox"
    code = f"import sys, nexus_capability_code.plugin; print([m for m in sys.modules if m in {heavy}])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
