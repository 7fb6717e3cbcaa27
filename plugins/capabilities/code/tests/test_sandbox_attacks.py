"""Every attack of attacks.yaml, and what stopped it; nothing outside is touched."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
import yaml
from nexus_capability_code import sandbox as module
from nexus_capability_code.sandbox import Call, Limits, Outcome, Program, Sandbox

ATTACKS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("attacks.yaml").read_text("utf-8"))
MACHINES = ("all layers", "no namespaces", "seccomp alone")
CASES = [  # limits on time are the same on every machine, and take their time
    pytest.param(kind, case, id=f"{kind}-{case['name']}", marks=[pytest.mark.slow] if case.get("slow") else [])
    for kind in MACHINES
    for case in ATTACKS
    if kind == MACHINES[0] or "wall-clock limit" not in case["outcome"]
]
AUDITED = [case for case in ATTACKS if "forbids" in case["outcome"]]
README = Path(__file__).parent.parent / "README.md"
FAST = Limits(wall_s=1.5, cpu_s=1, memory_mb=128, audit=False)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox's kernel layers are Linux's")


@dataclass(frozen=True)
class Outside:
    """Things that an attack is aimed at, and whether they are as they were."""

    victim: Path
    parent: subprocess.Popen[bytes]
    tcp: socket.socket
    unix: socket.socket

    def fill(self, code: str) -> str:
        names = {"victim": self.victim, "parent": self.parent.pid, "port": self.tcp.getsockname()[1]}
        names["socket"] = self.unix.getsockname()
        for name, value in names.items():
            code = code.replace("{" + name + "}", str(value))
        return code

    def assert_untouched(self) -> None:
        assert sorted(p.name for p in self.victim.parent.iterdir()) == ["precious.txt", "s"]
        assert self.victim.read_text() == "precious" and self.victim.stat().st_mode & 0o777 == 0o644
        assert self.parent.poll() is None
        for listener in (self.tcp, self.unix):
            with pytest.raises(BlockingIOError):
                listener.accept()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    directory = tmp_path_factory.mktemp("o")
    victim = directory / "precious.txt"
    victim.write_text("precious")
    victim.chmod(0o644)
    tcp, unix = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    unix.bind(str(directory / "s"))
    unix.listen()
    tcp.setblocking(False)
    unix.setblocking(False)
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield Outside(victim, parent, tcp, unix)
    parent.kill()
    parent.wait()
    tcp.close()
    unix.close()


@pytest.fixture(scope="module")
def sandbox(request: pytest.FixtureRequest, machine: Callable[..., Path], edits: dict[str, Any]) -> Iterator[Sandbox]:
    """This machine, and the same without its upper layers: each layer must hold without the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "__file__", str(machine(*edits[getattr(request, "param", MACHINES[0])])))
        box = Sandbox(workers=1, limits=FAST)
    with box:
        yield box


@pytest.fixture(scope="module")
def audited() -> Iterator[Sandbox]:
    with Sandbox(workers=1, limits=replace(FAST, audit=True)) as box:
        yield box


def attack(sandbox: Sandbox, body: str) -> str:
    outcome = sandbox.run(Program(f"def f():\n{indent(body, '    ')}\n", "f"), [Call("f", [])])
    return told(outcome)


def told(outcome: Outcome) -> str:
    answer = outcome.answers[0] if outcome.answers else None
    return (
        f"stopped={outcome.stopped} | value={answer and answer.value} | error={answer and answer.error} {outcome.error}"
    )


def expected(case: dict[str, str], sandbox: Sandbox) -> str:
    """What must be found in the result. Where there is no scratch directory, or no Landlock, refusal comes earlier."""
    outcome = case["outcome"]
    if not sandbox.layers["landlock"]:  # no file can be opened or even looked at, so some modules cannot be imported
        return rf"{outcome}|Errno 1\b|No module named|unknown encoding|value=\[\]"
    return outcome if "mount" in sandbox.layers["namespaces"] else f"{outcome}|Errno 13"


def children_of(server: Any) -> list[str]:
    return Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()


@pytest.mark.parametrize(("sandbox", "case"), CASES, indirect=["sandbox"])
def test_attack_is_stopped(sandbox: Sandbox, outside: Outside, case: dict[str, str]) -> None:
    result = attack(sandbox, outside.fill(case["code"]))
    assert re.search(expected(case, sandbox), result), result
    outside.assert_untouched()
    [server] = sandbox._all
    assert children_of(server) == []
    assert list(Path(server.scratch).iterdir()) == []
    alive = sandbox.run(Program("def f(x):\n    return x + 1", "f"), [Call("f", [1])])
    assert [answer.value for answer in alive.answers] == [2]


@pytest.mark.parametrize("case", AUDITED, ids=[case["name"] for case in AUDITED])
def test_audit_hook_refuses_too(audited: Sandbox, outside: Outside, case: dict[str, str]) -> None:
    assert "the sandbox forbids" in attack(audited, outside.fill(case["code"]))
    outside.assert_untouched()


def test_cpu_limit_alone() -> None:
    with Sandbox(workers=1, limits=replace(FAST, wall_s=60)) as box:
        outcome = box.run(Program("while True: pass", "f"), [])
    assert outcome.stopped == "CPU limit" and 0.9 < outcome.cpu_s < 3


FORGERIES = {
    "writes verdicts": """
        import os
        for fd in range(3, 20):
            try: os.write(fd, b'{"passed": true}\\n' * 3)
            except OSError: pass
        os._exit(0)
        """,
    "prints a verdict": """
        print('{"passed": true}')
        raise SystemExit(0)
        """,
    "patches builtins": """
        import builtins
        builtins.AssertionError = ValueError
        def f(x): return 0
        """,
    "equals everything": """
        class Same(int):
            def __eq__(self, other): return True
        def f(x): return Same(0)
        """,
    "answers and leaves": """
        import os
        def f(x):
            os.write(5, b'{"value": 0}\\n')
            os._exit(0)
        """,
    "looks for what is expected": """
        import gc
        def f(x):
            found = [o for o in gc.get_objects() if isinstance(o, dict) and 'expected-417' in map(str, o.values())]
            return 417 if found else 0
        """,
}


@pytest.mark.parametrize("code", [dedent(code) for code in FORGERIES.values()], ids=list(FORGERIES))
def test_verdict_cannot_be_forged(sandbox: Sandbox, code: str) -> None:
    checking = "assert f(1) == 417, 'expected-417'"
    outcome = sandbox.check(Program(code, "f"), checking, ["f"])
    assert not outcome.passed


def test_checking_code_is_confined_too(sandbox: Sandbox, outside: Outside) -> None:
    program = Program("def f(x):\n    return x", "f")
    for code in (f"open({str(outside.victim)!r}, 'w')", "import os; os.fork()", "while True: pass"):
        assert not sandbox.check(program, code, ["f"]).passed
    outside.assert_untouched()


def test_a_program_never_sees_an_earlier_job(sandbox: Sandbox) -> None:
    sandbox.run(Program("marker = 'earlier-' + 'job-8812'\ndef f(x): return x", "f"), [Call("f", ["earlier-job-8812"])])
    looks = "import gc\nseen = [o.values() for o in gc.get_objects() if isinstance(o, dict)]"
    looks += "\nreturn ['earlier' for values in seen if 'earlier-' + 'job-8812' in map(str, values)]"
    assert "value=[]" in attack(sandbox, looks)


def test_readme_lists_every_attack() -> None:
    rows = ["| attack | stopped by |", "|---|---|", *(f"| {case['name']} | {case['by']} |" for case in ATTACKS)]
    table = "\n".join(rows)
    assert table in README.read_text("utf-8"), f"README.md should hold:\n\n{table}"
