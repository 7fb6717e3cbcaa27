"""A process that has the runtime and nothing else: the packages that its extra and the text tower ask for, and theirs.

Their directories are linked into one place, which is all that the process sees beside the standard library.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TOWER = ROOT / "plugins/towers/text"
PROGRAM = Path(__file__).with_name("alone.py")
PIPELINE = {
    "sklearn",
    "scipy",
    "bitsandbytes",
    "accelerate",
    "pyarrow",
    "peft",
    "matplotlib",
    "tensorboard",
    "datasets",
}
DIGITS = "12345 + 67890"
REQUEST = {
    "prompts": ["a", DIGITS, "Zürich 東京 😀 ends"],
    "capabilities": ["reasoning", "tools"],
    "tools": [{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}],
}


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]


def wanted() -> list[str]:
    """What the core, its extra `runtime` and the tower ask for, as their own files say."""
    core, tower = project(ROOT), project(TOWER)
    assert any(text.startswith("nexus-core[runtime]") for text in tower["dependencies"])
    own = [text for text in tower["dependencies"] if not text.startswith("nexus-core")]
    return [*core["dependencies"], *core["optional-dependencies"]["runtime"], *own]


def closure(texts: list[str]) -> Iterator[importlib.metadata.Distribution]:
    """The installed distributions that these need, and those that they need."""
    seen, todo = set(), [Requirement(text) for text in texts]
    while todo:
        requirement = todo.pop()
        extras = requirement.extras or {""}
        if (key := (requirement.name.lower(), frozenset(extras))) in seen:
            continue
        seen.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        yield distribution
        found = map(Requirement, distribution.requires or ())
        todo += [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of links to the packages of others that the runtime needs."""
    place = tmp_path_factory.mktemp("packages")
    for distribution in closure(wanted()):
        for file in distribution.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (place / top).exists():
                (place / top).symlink_to(Path(str(distribution.locate_file(top))))
    return place


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, new_site) -> Path:
    """The core, the consumer's package and the text tower, as if installed."""
    site = new_site()
    core, tower = project(ROOT), project(TOWER)
    extra = [f'{text}; extra == "runtime"' for text in core["optional-dependencies"]["runtime"]]
    site.distribution("nexus-core", requires=[*core["dependencies"], *extra], provides=["runtime"])
    entry = "[nexus.towers]\ntext = nexus_tower_text.plugin\n"
    site.distribution("nexus-tower-text", requires=tower["dependencies"], entry_points=entry)
    for package in (ROOT / "nexus_core", ROOT / "nexus", TOWER / "src/nexus_tower_text"):
        (site.path / package.name).symlink_to(package)
    return site.path


def run(python: list[str], path: list[Path], bundle: Path) -> dict:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [*python, str(PROGRAM), str(bundle), json.dumps(REQUEST)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def said(packages: Path, ours: Path, random_bundle: Path) -> dict:
    """Without `site`, the interpreter has the standard library and what it is told of, and no environment."""
    return run([str(Path(sys._base_executable)), "-S", "-P"], [ours, packages], random_bundle)


def check(said: dict, model) -> None:
    prompts = REQUEST["prompts"]
    for name, answers in said["answers"].items():
        assert answers["generated"] == answers["streamed"] == model.generate(prompts, name)
        assert answers["drawn"] == model.generate(prompts, name, temperature=1.0, seed=3)
    assert said["routes"] == [None, "reasoning", None]
    assert "the model wrote no JSON call" in said["call"]


def test_it_answers_streams_and_routes_as_it_does_here(said, random_model):
    check(said, random_model)


def test_no_import_of_the_pipeline_no_socket_and_after_the_load_no_disk(said):
    assert said["refused"] == []


def test_nothing_of_the_pipeline_is_there(said, packages):
    assert {path.name for path in packages.iterdir()} & PIPELINE == set()
    assert {"torch", "transformers", "safetensors", "jsonschema"} <= {path.name for path in packages.iterdir()}
    assert not set(said["modules"]) & PIPELINE
    assert not [name for name in said["modules"] if name.startswith(("nexus_teacher", "nexus_capability"))]


def test_the_import_alone_needs_no_torch(said):
    assert said["light"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import nexus_core.data", "import nexus_core.data"),
        ("import nexus_teacher_zoo", "import nexus_teacher_zoo"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "socket.getaddrinfo"),
        ("closed.append('disk'); open('/etc/hostname')", "open"),
        ("closed.append('disk'); import os; os.listdir('.')", "os.listdir"),
    ],
)
def test_the_guards_can_fail(line, what):
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("alone", {str(PROGRAM)!r})
alone = importlib.util.module_from_spec(spec)
spec.loader.exec_module(alone)
sys.meta_path.insert(0, alone.Guard)
sys.addaudithook(alone.watch)
closed = alone.closed
try:
    {line}
except (ImportError, PermissionError):
    pass
print(*alone.refused)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(what)


@pytest.mark.slow
def test_installed_from_wheels_into_a_fresh_environment(packages, random_bundle, random_model, tmp_path):
    """As a user installs it; what others publish is linked in instead of downloaded again."""
    for folder in (ROOT, TOWER):
        build = "from hatchling.build import build_wheel; import sys; build_wheel(sys.argv[1])"
        subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=folder, check=True, capture_output=True)
    venv.create(tmp_path / "env", symlinks=True, with_pip=False)
    python = tmp_path / "env/bin/python"
    (place,) = (tmp_path / "env/lib").glob("python3.*/site-packages")
    (place / "others.pth").write_text(f"{packages}\n")
    wheels = sorted(map(str, tmp_path.glob("*.whl")))
    assert len(wheels) == 2
    install = ["uv", "pip", "install", "--python", str(python), "--no-deps", "--offline", *wheels]
    subprocess.run(install, check=True, capture_output=True)
    said = run([str(python), "-P"], [], random_bundle)
    check(said, random_model)
    assert said["refused"] == []
    moved = random_bundle.rename(tmp_path / "elsewhere")
    try:
        shell = [str(tmp_path / "env/bin/nexus"), "infer", str(moved), "--capability", "reasoning", "--prompt", "a"]
        result = subprocess.run(shell, capture_output=True, text=True, check=True)
        assert result.stdout == random_model.generate("a", "reasoning") + "\n"
    finally:
        moved.rename(random_bundle)
