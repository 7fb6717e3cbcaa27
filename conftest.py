"""What holds for every test, of the core and of the plugins: fixed seeds, one thread, offline, a share of slow tests.

Sockets to other machines are blocked by pytest-socket (`addopts` in pyproject.toml).
"""

from __future__ import annotations

import hashlib
import os
import random
import sys

import pytest

# Set before torch or a hub client is imported, by this process or by one that a test starts.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are faster on one thread, and sums are then reproducible


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run all slow tests")
    parser.addoption("--slow-share", metavar="K/N", help="run the K-th of N shares of the slow tests (K from 0)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A slow test runs when it was asked for: all of them, or those whose name hashes into the share."""
    share = _share(config.getoption("--slow-share"))
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow") and not (share and _in_share(item.nodeid, *share)):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow or --slow-share K/N"))


def _share(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    part, _, whole = text.partition("/")
    if not (part.isdecimal() and whole.isdecimal() and int(part) < int(whole)):
        raise pytest.UsageError(f"--slow-share {text}: expected K/N with 0 <= K < N, such as 3/7")
    return int(part), int(whole)


def _in_share(nodeid: str, part: int, whole: int) -> bool:
    """Stable over runs and machines, which Python's own hash of a string is not."""
    return int.from_bytes(hashlib.sha256(nodeid.encode()).digest()[:8], "big") % whole == part


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(42)
    if torch := sys.modules.get("torch"):  # a test that does not need torch does not pay for its import
        torch.manual_seed(42)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(42)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own settings decide no test."""
    for name in [name for name in os.environ if name.startswith("NEXUS_") or name == "_NEXUS_COMPLETE"]:
        monkeypatch.delenv(name)
