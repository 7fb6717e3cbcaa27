"""`nexus capability update`: one file of a bundle is replaced by a better one, or nothing at all is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import nexus_teacher_zoo
import pytest

from nexus_core.bundle.check import check_bundle
from nexus_core.bundle.disk import read_manifest
from nexus_core.cli import context
from nexus_core.cli.main import main
from nexus_core.distill.batches import Batches
from nexus_core.errors import DataError, ModelError
from nexus_core.pipeline import capability as updating
from nexus_core.pipeline.capability import UpdateOrder, changes, updated_adapters
from nexus_core.resources import shared_path
from nexus_core.student.files import read_student

pytestmark = pytest.mark.slow
OPEN = "{benchmark: pack, metric: METRIC, direction: higher, retain_fraction: null, minimum: 0.0}"
TEACHER = """\
  zoo-{name}:
    name: Zoo {name}
    parameters: 1M
    category: Language model
    best_feature: {name}
    tower: text
    capabilities: [{name}]
    path: models/{name}
    license: MIT
"""
TEXTS = {"README.md", "manifest.json", "verify_report.json"}  # the first only where a score is another one
TOOLS = "adapters/tools_adapter.safetensors"


def registry_text(minimum: float) -> str:
    """The one that ships, with copies of the teachers (only those are moved), a small gate, and contracts that ask for so
    little that a few steps meet them."""
    text = shared_path("registry.yaml").read_text()
    rows = "".join(TEACHER.format(name=name) for name in ("reasoning", "tools"))
    text = text.replace("\nteachers:\n", f"\nteachers:\n{rows}", 1)
    gate = "gate: {samples: 4, resamples: 50, attempts: 0, control_samples: 2, alone: 2, batch_equal: 0.1, minutes: 9}"
    text, found = re.subn(r"(?ms)^gate:\n.*?\n\n", f"{gate}\n\n", text)
    assert found == 1
    for name, metric in (("reasoning", "exact_answer"), ("tools", "call_accuracy")):
        contract = OPEN.replace("METRIC", metric).replace("0.0", str(minimum))
        text, found = re.subn(rf"(?ms)^(  {name}:\n.*?    contract: )\{{.*?\}}$", rf"\g<1>{contract}", text, count=1)
        assert found == 1
    return text


@pytest.fixture(scope="session")
def shipped_once(taught_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that passed, with its bundle in it, and beside it registry and teachers."""
    root = tmp_path_factory.mktemp("shipped")
    shutil.copytree(taught_once, root / "run")
    for name in ("reasoning", "tools"):
        shutil.copytree(Path(nexus_teacher_zoo.__file__).parent / "weights" / name, root / "models" / name)
    (root / "registry.yaml").write_text(registry_text(0.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXUS_REGISTRY", str(root / "registry.yaml"))
        run = str(root / "run")
        for name in ("reasoning", "tools"):
            named = ["--teacher", f"zoo-{name}", "--capability", name]
            call("profile", *named, "--run", run, "--reference-only")
        call("verify", "--run", run)
        call("bundle", "build", run, "--out", f"{run}/nexus_bundle_v1")
    return root


def call(*arguments: object, status: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    assert int(ended.value.code or 0) == status


@pytest.fixture
def shipped(shipped_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of one's own."""
    root = Path(shutil.copytree(shipped_once, tmp_path / "shipped"))
    monkeypatch.setenv("NEXUS_REGISTRY", str(root / "registry.yaml"))
    return root / "run"


def differing(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def is_one_adapter(names: set[str]) -> bool:
    return {TOOLS, "manifest.json", "verify_report.json"} <= names <= {TOOLS, *TEXTS}


def update(run: Path, *more: object) -> tuple[object, ...]:
    return ("capability", "update", "tools", "--run", run, "--steps", 3, *more)


def test_one_file_is_replaced_and_the_version_before_is_kept(shipped: Path, nexus: Any, bytes_of: Any) -> None:
    bundle, student = shipped / "nexus_bundle_v1", shipped / "student"
    old, taught, others = bytes_of(bundle), bytes_of(student), bytes_of(shipped / "checkpoints/nexus_student/joint")
    ended = nexus(*update(shipped))
    assert ended.status == 0, ended.err
    assert is_one_adapter(differing(old, bytes_of(bundle)))
    assert bytes_of(shipped / "nexus_bundle_v1.versions/0001") == old
    assert re.search(rf"changed are (README\.md, )?{TOOLS}, verify_report\.json and the manifest", ended.out)
    assert "what was there is version 1" in ended.out
    assert check_bundle(bundle).capabilities["tools"].result.verdict == "pass"
    # The run goes on from it: its student, its report, its journals.
    assert differing(taught, bytes_of(student)) == {"adapters/tools.safetensors"}
    assert nexus("verify", "--run", shipped, "--check").status == 0
    assert others == bytes_of(shipped / "checkpoints/nexus_student/joint")
    assert json.loads((shipped / "distill/tools/summary.json").read_text())["steps"] <= 3
    before = shipped / "distill/tools/before_update_1.safetensors"
    assert bytes_of(before.parent)[before.name] == taught["adapters/tools.safetensors"]
    assert list(updated_adapters(shipped)) == ["tools"]
    assert not list((shipped / "distill").glob(".update*"))
    assert set(read_student(student).model.adapters) == {"reasoning", "tools"}
    # And back.
    assert nexus("bundle", "rollback", bundle).status == 0
    assert bytes_of(bundle) == old


def test_a_contract_that_is_missed_changes_nothing(
    shipped: Path, shipped_once: Path, nexus: Any, bytes_of: Any
) -> None:
    (shipped.parent / "registry.yaml").write_text(registry_text(0.999))
    before = bytes_of(shipped)
    ended = nexus(*update(shipped))
    assert ended.status == 3
    shutil.copy(shipped_once / "run/.lock", shipped / ".lock")  # the number of the process that held it last
    assert "nothing was changed: with tools taught again, the student does not pass: " in ended.err
    assert bytes_of(shipped) == before
    assert not (shipped / "nexus_bundle_v1.versions").exists()


def test_elsewhere_leaves_the_bundle_that_is_there(shipped: Path, nexus: Any, bytes_of: Any, tmp_path: Path) -> None:
    old = bytes_of(shipped / "nexus_bundle_v1")
    ended = nexus(*update(shipped, "--out", tmp_path / "next", "--json"))
    assert ended.status == 0, ended.err
    said = json.loads(ended.out)
    assert is_one_adapter({*said["changed"], "manifest.json"}) and said["replaced"] is None
    assert bytes_of(shipped / "nexus_bundle_v1") == old and not (tmp_path / "next.versions").exists()
    assert is_one_adapter(differing(old, bytes_of(tmp_path / "next")))


def test_anew_is_from_new_weights_and_the_same_each_time(
    shipped_once: Path, tmp_path: Path, nexus: Any, bytes_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for place in ("one", "two"):
        root = Path(shutil.copytree(shipped_once, tmp_path / place))
        monkeypatch.setenv("NEXUS_REGISTRY", str(root / "registry.yaml"))
        assert nexus(*update(root / "run", "--anew")).status == 0
        found.append(bytes_of(root / "run/nexus_bundle_v1"))
    assert found[0] == found[1]


def test_a_quantised_bundle_is_updated_as_one(shipped: Path, nexus: Any, bytes_of: Any) -> None:
    bundle = shipped / "int8"
    assert nexus("bundle", "build", shipped, "--out", bundle, "--quantise", "int8").status == 0
    old = bytes_of(bundle)
    ended = nexus(*update(shipped, "--bundle", bundle))
    assert ended.status == 0, ended.err
    assert is_one_adapter(differing(old, bytes_of(bundle)))
    report = json.loads((bundle / "verify_report.json").read_text())
    assert report["variants"]["int8"]["verdict"] == "pass"


def test_a_bundle_of_another_student_is_refused_before_anything_is_taught(shipped: Path, nexus: Any) -> None:
    file = shipped / "student/adapters/reasoning.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-2] ^= 1
    file.write_bytes(bytes(raw))
    ended = nexus(*update(shipped))
    assert ended.status == 1 and 'the adapter of "reasoning" is another one' in ended.err
    assert not list((shipped / "distill").glob(".update*"))


def test_what_is_not_in_the_bundle_or_not_there(shipped: Path, nexus: Any, tmp_path: Path) -> None:
    other = nexus("capability", "update", "code", "--run", shipped)
    assert other.status == 2 and '"code" is not in both' in other.err
    assert nexus("capability", "update", "../tools", "--run", shipped).status == 1
    assert nexus("capability", "update", "tools", "--run", tmp_path / "nowhere").status == 1
    shutil.rmtree(shipped / "nexus_bundle_v1")
    gone = nexus(*update(shipped))
    assert gone.status == 1 and "no such directory" in gone.err
    assert not (shipped / "nexus_bundle_v1.versions").exists()


def test_more_than_one_file_is_never_replaced(shipped: Path, nexus: Any, bytes_of: Any) -> None:
    """Here, because it would be split otherwise. What was taught is kept for the command with the right limit."""
    before = bytes_of(shipped / "nexus_bundle_v1"), bytes_of(shipped / "student")
    ended = nexus(*update(shipped, "--shard-limit", 100_000))
    assert ended.status == 1 and "would change too" in ended.err and "--shard-limit" in ended.err
    assert before == (bytes_of(shipped / "nexus_bundle_v1"), bytes_of(shipped / "student"))
    ended = nexus(*update(shipped))
    assert ended.status == 0 and "going on with the update of tools that was begun" in ended.err


# --- killed -------------------------------------------------------------------------------------------------------------


class Interrupting:
    """Batches of which one, the first time that it is asked for, brings SIGINT."""

    def __init__(self, position: int) -> None:
        self.position, self.left, self.at = position, 1, Batches.at

    def __call__(self, batches: Batches, position: int) -> Any:
        if position == self.position and self.left:
            self.left = 0
            os.kill(os.getpid(), signal.SIGINT)
        return self.at(batches, position)


def test_interrupted_while_it_is_taught_the_same_command_goes_on(
    shipped: Path, nexus: Any, bytes_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path(shutil.copytree(shipped, tmp_path / "undisturbed"))
    assert nexus(*update(plain)).status == 0
    before, interrupt = bytes_of(shipped / "student"), Interrupting(3)
    monkeypatch.setattr(Batches, "at", lambda self, position: interrupt(self, position))
    ended = nexus(*update(shipped))
    assert ended.status == 130 and "stopped; the same command goes on from here" in ended.err
    assert bytes_of(shipped / "student") == before
    ended = nexus(*update(shipped))
    assert ended.status == 0 and "going on with the update of tools that was begun" in ended.err
    assert bytes_of(shipped / "nexus_bundle_v1") == bytes_of(plain / "nexus_bundle_v1")


def test_killed_anywhere_while_it_is_taken_over_the_same_command_ends_it(
    shipped: Path, nexus: Any, bytes_of: Any, tmp_path: Path, module_at: Callable[[Path], ModuleType]
) -> None:
    """Taught and verified, it waits on the desk. One process after the other is killed, each one change later. There is a
    whole bundle at any time, unless two are changing places, and then the next command finishes that."""
    bundle = shipped / "nexus_bundle_v1"
    assert nexus(*update(shipped, "--shard-limit", 100_000)).status == 1
    plain = Path(shutil.copytree(shipped, tmp_path / "undisturbed"))
    assert nexus(*update(plain)).status == 0
    old, new = bytes_of(bundle), bytes_of(plain / "nexus_bundle_v1")
    killing, seen, dead, n = module_at(Path(__file__).parents[2] / "pipeline/conftest.py"), [], True, 0
    while dead:
        n += 1
        dead = killing.killed(lambda n=n: killing.die_at(n, in_question(shipped)), lambda: update_here(shipped))
        seen.append("away" if not bundle.exists() else "new" if bytes_of(bundle) == new else "old")
        assert seen[-1] != "old" or bytes_of(bundle) == old
        if seen[-1] == "new" and not (shipped / "distill/.update-tools/begun.json").exists():
            break  # all was done: the same command would be another update
        if seen[-1] == "away":
            with pytest.raises(ModelError) as caught:
                read_manifest(bundle)
            assert f"nexus bundle rollback {bundle} --list" in caught.value.hint
    assert {"old", "away", "new"} == set(seen) and seen == sorted(seen, key=["old", "away", "new"].index)
    assert bytes_of(bundle) == new
    assert bytes_of(shipped / "nexus_bundle_v1.versions/0001") == old
    assert [path.name for path in (shipped / "nexus_bundle_v1.versions").iterdir()] == ["0001"]
    for part in ("student", "distill/tools", "distill/updated", "checkpoints"):
        assert bytes_of(shipped / part) == bytes_of(plain / part)
    assert nexus("verify", "--run", shipped, "--check").status == 0


def in_question(run: Path) -> Callable[[str], bool]:
    """Whether a change of this place could be the one that spoils something. A draft is nobody's, and when the folder of
    versions is looked at for the last time everything is done."""
    return lambda place: str(run) in place and "draft/" not in place and not place.endswith(".versions")


def update_here(run: Path) -> None:
    """The command without its funnel."""
    order = UpdateOrder(run, "tools", context.open_registry(), context.open_plugins(), steps=3)
    updating.update(order)


# --- the parts ----------------------------------------------------------------------------------------------------------


def test_what_was_begun_for_something_else_is_not_gone_on_with(shipped: Path, nexus: Any) -> None:
    desk = shipped / "distill/.update-tools"
    (desk / "student").mkdir(parents=True)
    (desk / "begun.json").write_text(json.dumps({"asked": {"rest": "x"}, "before": "x", "seed": 1}))
    (desk / "verify_report.json").write_text("{}")
    ended = nexus(*update(shipped))
    assert ended.status == 0 and "going on" not in ended.err, ended.err


def test_no_other_file_may_differ(shipped: Path) -> None:
    manifest = read_manifest(shipped / "nexus_bundle_v1")
    assert changes(manifest, manifest, "tools") == ()
    files = {**manifest.files, "backbone/config.json": manifest.files["README.md"]}
    with pytest.raises(DataError, match=r"backbone/config\.json would change too"):
        changes(manifest, replace(manifest, files=files), "tools")
