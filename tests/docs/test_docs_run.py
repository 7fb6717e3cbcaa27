"""Every `python`, `console` and `bash` block in the documentation runs, and prints what the page says (see run_page.py).

Each page gets an empty directory and a throwaway environment that sees this environment's packages, so that a page may
install a plugin. Nothing is taken from the network: `pip install` finds its build tools here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).with_name("run_page.py")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SLOW = {  # they load models
    "docs/how-to/architect.md",
    "docs/how-to/bundle.md",
    "docs/how-to/distill.md",
    "docs/how-to/evaluate.md",
    "docs/how-to/export.md",
    "docs/how-to/infer.md",
    "docs/how-to/maintain.md",
    "docs/how-to/profile.md",
    "docs/how-to/run.md",
    "docs/how-to/verify.md",
    "docs/plugins/hooks.md",
    "docs/plugins/testing.md",
    "docs/plugins/tutorial.md",
}

# Pages whose directory is not empty: it holds `nexus_bundle_v1`, of a tiny student whose every word is laid down.
WITH_BUNDLE = {"README.md", "docs/how-to/infer.md"}

# The only blocks that may be marked `not run`, by page, with the reason that the page gives.
NOT_RUN: dict[str, list[str]] = {
    "README.md": [
        "builds an environment from the package index",
        "takes a minute or two; tests/cli and the two how-to pages run the same commands",
    ],
    "CONTRIBUTING.md": ["runs the whole test suite"],
}

FENCE = re.compile(r"^```(python|console|bash)$", re.MULTILINE)
DATA = {"text", "toml", "yaml", "json", "csv"}  # a block in one of these is not code
MARK = re.compile(r"^<!-- not run: (.*?) -->$", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def with_code() -> list[object]:
    pages = [page for page in PAGES if FENCE.search(page.read_text(encoding="utf-8"))]
    return [pytest.param(p, id=name(p), marks=[pytest.mark.slow] if name(p) in SLOW else []) for p in pages]


@pytest.fixture
def environment(page: Path, tmp_path: Path) -> dict[str, str]:
    """Variables of a shell whose `python`, `pip` and `nexus` belong to a new environment on top of this one."""
    env = tmp_path / "env"
    venv.create(env, symlinks=True, with_pip="$ pip install" in page.read_text(encoding="utf-8"))
    paths = {"base": str(env), "platbase": str(env)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", paths))
    (site_packages / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    scripts = Path(sysconfig.get_path("scripts", "venv", paths))
    nexus = scripts / "nexus"
    nexus.write_text(f"#!{scripts / 'python'}\nfrom nexus_core.cli.main import main\n\nmain()\n")
    nexus.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    return {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",  # the plugin loader checks the dependencies again, by name and version
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as "no isolation": the build backend is the one installed here
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize("page", with_code())
def test_every_block_does_what_the_page_says(
    page: Path, environment: dict[str, str], tmp_path: Path, module_at: Callable[[Path], ModuleType]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if name(page) in WITH_BUNDLE:
        students = module_at(ROOT / "tests/runtime/students.py")
        students.write(place / "nexus_bundle_v1", students.chain_student(routed=True))
    if name(page) in ("docs/how-to/bundle.md", "docs/how-to/maintain.md"):  # they compare or exchange two
        bundles = module_at(ROOT / "tests/bundle/tiny_bundle.py")
        for folder, kind in (("nexus_bundle_v1", "fp32"), ("nexus_bundle_fp16", "fp16")):
            bundles.make(place / folder, quantisation=kind)
    if name(page) == "docs/how-to/export.md":  # what its student knows is not much
        module_at(ROOT / "tests/bundle/export/small_bundle.py").make_bundle(place / "nexus_bundle_v1", 0.9, None)
    python = Path(environment["PATH"].split(os.pathsep)[0], "python")
    result = subprocess.run(
        [python, RUNNER, page], cwd=place, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


def test_only_the_listed_blocks_are_left_out() -> None:
    marked = {name(page): MARK.findall(page.read_text(encoding="utf-8")) for page in PAGES}
    assert {page: reasons for page, reasons in marked.items() if reasons} == NOT_RUN


def test_every_block_says_what_it_is() -> None:
    """A block without a language, or in one that run_page.py does not know, would be passed over."""
    known = {"python", "console", "bash"} | DATA
    odd = [
        f"{name(page)}: {fence}"
        for page in PAGES
        for fence in re.findall(r"^```.*$", page.read_text(encoding="utf-8"), re.MULTILINE)[::2]
        if fence.removeprefix("```") not in known
    ]
    assert odd == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+://", path):
                continue
            file = page.parent / path if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{name(page)}: {target}")
    assert broken == []


PAGE = """
```python
print(2 + 2)
```

<!-- prints -->
```text
4
```

<!-- file: note.txt -->
```text
written
```

```console
$ export WORD=kept
$ echo $WORD; cat note.txt
kept
writ...
```
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", ""),
        ("print(2 + 2)", "print(5)", "prints:"),
        ("print(2 + 2)", "print(1 / 0)", "ZeroDivisionError"),
        ("cat note.txt", "cat nothing.txt", "exits with 1"),
        ("kept\nwrit", "lost\nwrit", "the page says:"),
    ],
)
def test_the_runner_notices(old: str, new: str, said: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace(old, new) if old else PAGE)
    result = subprocess.run(
        [sys.executable, RUNNER, page],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == (1 if said else 0), result.stdout + result.stderr
    assert said in result.stdout + result.stderr
