"""Files stay under 400 lines, functions under 40, parameters at 6 and under; what is committed stays under 45 MB."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 40, 6
MEGABYTES = 45
SOURCES = sorted(
    path
    for pattern in ("nexus_core/**/*.py", "nexus/**/*.py", "plugins/*/*/src/**/*.py")
    for path in ROOT.glob(pattern)
    if "_template" not in path.parts
)


def too_large(source: str, name: str) -> Iterator[tuple[str, str]]:
    """(entry, why) for the file and each function in it that breaks a limit."""
    lines = len(source.splitlines())
    if lines >= FILE_LINES:
        yield name, f"{lines} lines, the limit is below {FILE_LINES}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length >= FUNCTION_LINES:
                yield f"{name}::{node.name}", f"{length} lines, the limit is below {FUNCTION_LINES}"
            if (count := parameters(node)) > PARAMETERS:
                yield f"{name}::{node.name}", f"{count} parameters, the limit is {PARAMETERS}"


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """As a caller counts them: self and cls are not given, *args and **kwargs are one each."""
    given = [arg.arg for arg in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    return len([name for name in given if name not in ("self", "cls")]) + bool(node.args.vararg) + bool(node.args.kwarg)


def exceptions() -> set[str]:
    text = (Path(__file__).parent / "size_exceptions.txt").read_text(encoding="utf-8")
    return {line.split("#")[0].strip() for line in text.splitlines()} - {""}


def test_sizes():
    found = dict(
        entry for path in SOURCES for entry in too_large(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())
    )
    allowed = exceptions()
    assert {name: why for name, why in found.items() if name not in allowed} == {}
    assert allowed - set(found) == set(), "no longer needed: remove these lines from size_exceptions.txt"


def test_the_sources_are_found():
    assert len(SOURCES) > 50


@pytest.mark.parametrize(
    ("source", "entry"),
    [
        ("x = 1\n" * 400, "m.py"),
        ("def f():\n" + "    x = 1\n" * 39, "m.py::f"),
        ("class C:\n    async def g(self):\n" + "        x = 1\n" * 39, "m.py::g"),
        ("def f(a, b, c, d, /, e, *, f, g): ...", "m.py::f"),
        ("def f(a, b, c, d, e, *args, **kwargs): ...", "m.py::f"),
    ],
)
def test_a_breach_is_seen(source, entry):
    assert [name for name, _ in too_large(source, "m.py")] == [entry]


@pytest.mark.parametrize(
    "source", ["x = 1\n" * 399, "def f():\n" + "    x = 1\n" * 38, "class C:\n    def f(self, a, b, c, d, e, g): ..."]
)
def test_the_limit_itself_is_allowed(source):
    assert list(too_large(source, "m.py")) == []


# --- what is committed -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_what_is_committed_is_small(committed):
    assert sum(path.stat().st_size for path in committed) < MEGABYTES * 1_000_000


def test_nothing_committed_names_one_machine(committed):
    """Paths of a home or a root directory, and hosts of package indexes, hold on no other machine."""
    pattern = re.compile(r"(?<![\w.-])/(home|root|work|Users)/\w|py" + r"pi\.org|python" + r"hosted\.org")
    found = []
    for path in committed:
        if path.suffix in {".safetensors", ".npz", ".png", ".gz", ".parquet"} or path == Path(__file__):
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
            if pattern.search(line)
        ]
    assert found == []
