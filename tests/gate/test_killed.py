"""`nexus verify` killed while the student is asked: no process stays, and every teacher comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from nexus_core.gate.isolation import JOURNAL


def wait_for(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whatever_kills_it(passed, verify, number) -> None:
    command = [sys.executable, "-c", "from nexus_core.cli.main import main; main()", "verify", "--run", str(passed.run)]
    path = os.pathsep.join(filter(None, [str(passed.site), os.environ.get("PYTHONPATH", "")]))
    gate = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)
    wait_for(lambda: not passed.teacher("ada").exists() and psutil.Process(gate.pid).children())
    (inmate,) = psutil.Process(gate.pid).children()
    gate.send_signal(number)
    assert gate.wait(60) != 0
    wait_for(lambda: not inmate.is_running() or inmate.status() == psutil.STATUS_ZOMBIE, 10)
    killed = number is signal.SIGKILL
    assert passed.teacher("ada").exists() != killed and (passed.run / JOURNAL).exists() == killed
    ended = verify("--check")
    assert ended.status == 0, "the report of before still holds"
    assert passed.teacher("ada").exists() and passed.teacher("bob").exists() and not (passed.run / JOURNAL).exists()
