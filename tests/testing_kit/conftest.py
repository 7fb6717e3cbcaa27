"""The template's plugin of each kind, changed and installed, with the checks that then fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nexus_core.discovery import discover
from nexus_core.template import generate
from nexus_core.testing.run import run_checks
from nexus_core.types import Kind

Failed = dict[str, str]


@pytest.fixture
def check(site, tmp_path) -> Callable[..., Failed]:
    """Generate the template's plugin `demo` of a kind, change its sources, install it, run its checks.

    A change is (file, old text, new text). Returns title -> detail of the checks that failed.
    """

    def run(kind: Kind, *changes: tuple[str, str, str], **extra: object) -> Failed:
        root = generate(kind, "demo", tmp_path / "drafts")
        package = root / "src" / f"nexus_{kind}_demo"
        for file, old, new in changes:
            path = package / file
            text = path.read_text(encoding="utf-8")
            assert old in text, f"{file} does not hold {old!r}"
            path.write_text(text.replace(old, new), encoding="utf-8")
        files = {p.relative_to(package).as_posix(): p.read_text(encoding="utf-8") for p in package.rglob("*.*")}
        site.add(kind.value, "demo", files.pop("plugin.py"), files=files, **extra)
        refs = [ref for ref in discover() if ref.kind is kind and ref.name == "demo"]
        return {result.check: result.detail for result in run_checks(refs[0]) if not result.ok}

    return run


@pytest.fixture
def only() -> Callable[..., None]:
    """`only(failed, title, said)`: this check failed, for this reason, and no other did."""

    def require(failed: Failed, title: str, said: str = "") -> None:
        assert len(failed) == 1, failed
        ((check, detail),) = failed.items()
        assert check.startswith(title), check
        assert said in detail, detail

    return require
