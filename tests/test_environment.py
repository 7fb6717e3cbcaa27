"""The guards of conftest.py hold: no network, and a slow test runs exactly when its share does."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_no_connection_leaves_this_machine():
    with socket.socket() as client, pytest.warns(UserWarning), pytest.raises(RuntimeError, match="allowed"):
        client.connect(("192.0.2.1", 80))


def test_a_test_may_serve_itself():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def _passed(tmp_path: Path, *options: str) -> str:
    test = tmp_path / "test_slow.py"
    test.write_text(
        "import pytest\n@pytest.mark.slow\n@pytest.mark.parametrize('i', range(12))\ndef test_it(i): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    command += ["--rootdir", str(tmp_path), "--confcutdir", str(tmp_path), "--color=no"]
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    result = subprocess.run([*command, *options, str(test)], capture_output=True, text=True, check=False, timeout=60)
    return (result.stdout + result.stderr).strip().splitlines()[-1]


@pytest.mark.slow
def test_the_shares_of_the_slow_tests_are_a_partition(tmp_path):
    assert "12 skipped" in _passed(tmp_path)
    assert "12 passed" in _passed(tmp_path, "--slow")
    shares = [_passed(tmp_path, f"--slow-share={k}/3") for k in range(3)]
    counts = [int(line.split(" passed")[0].split()[-1]) if "passed" in line else 0 for line in shares]
    assert sum(counts) == 12 and max(counts) < 12


@pytest.mark.slow
@pytest.mark.parametrize("share", ["3/3", "x", "-1/2", "1/"])
def test_a_malformed_share_is_a_usage_error(tmp_path, share):
    assert "expected K/N" in _passed(tmp_path, f"--slow-share={share}")
