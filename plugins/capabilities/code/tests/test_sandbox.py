"""The sandbox with programs that mean well, on machines that cannot confine, and its speed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from nexus_capability_code import sandbox as module
from nexus_capability_code import values
from nexus_capability_code.sandbox import Call, Program, Sandbox, SandboxError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox's kernel layers are Linux's")


def test_values_errors_and_state_come_back() -> None:
    program = Program("seen = []\ndef f(x, y=1):\n    seen.append(x)\n    return {'all': tuple(seen), y: x / 2}", "f")
    with Sandbox(workers=1) as box:
        outcome = box.run(program, [Call("f", [1]), Call("f", [3], {"y": None}), Call("f", ["a"]), Call("g", [])])
    values = [answer.value for answer in outcome.answers]
    assert values[:2] == [{"all": (1,), 1: 0.5}, {"all": (1, 3), None: 1.5}]
    assert outcome.answers[2].error.startswith("TypeError") and outcome.answers[3].error.startswith("NameError")
    assert outcome.stopped == "" and outcome.peak_mb > 1


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


def test_without_a_kernel_layer_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose system calls we do not know, played by a server that is told so."""
    monkeypatch.delenv(module.WEAK, raising=False)
    _pretend_unknown_machine(monkeypatch, tmp_path)
    with pytest.raises(SandboxError, match="cannot be confined") as caught:
        Sandbox(workers=1)
    assert module.WEAK in caught.value.hint


def test_weak_mode_is_asked_for_and_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _pretend_unknown_machine(monkeypatch, tmp_path)
    with Sandbox(workers=1, allow_weak=True) as box:
        assert "only resource limits hold" in caplog.text
        assert box.run(Program("def f(x): return x", "f"), [Call("f", [5])]).answers[0].value == 5
        assert "forbids os.fork" in box.run(Program("import os\nos.fork()", "f"), []).error


def _pretend_unknown_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start servers from a copy of the package whose table of system calls is empty."""
    package = Path(module.__file__).parent
    copy = tmp_path / "nexus_capability_code"
    copy.mkdir()
    for name in ("__init__.py", "runner.py", "confine.py", "values.py", "extract.py"):
        (copy / name).write_bytes((package / name).read_bytes())
    (copy / "syscalls.json").write_text("{}")
    monkeypatch.setattr(module, "__file__", str(copy / "sandbox.py"))


def test_the_child_cannot_be_run_unconfined_when_a_layer_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _pretend_unknown_machine(monkeypatch, tmp_path)
    copy = tmp_path / "nexus_capability_code"
    (copy / "syscalls.json").write_bytes(Path(values.__file__).with_name("syscalls.json").read_bytes())
    spoilt = (
        (copy / "confine.py").read_text().replace("RESTRICT_SELF = 444, 445, 446", "RESTRICT_SELF = 444, 445, 99999")
    )
    (copy / "confine.py").write_text(spoilt)
    with Sandbox(workers=1) as box:
        if not box.layers["landlock"]:
            pytest.skip("no Landlock here")
        with pytest.raises(SandboxError, match="nothing was run"):
            box.run(Program("def f(): pass", "f"), [Call("f", [])])


def test_importing_the_metric_starts_nothing() -> None:
    heavy = "torch", "yaml", "nexus_capability_code.sandbox"
    code = f"import sys, nexus_capability_code.plugin; print([m for m in sys.modules if m in {heavy}])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
