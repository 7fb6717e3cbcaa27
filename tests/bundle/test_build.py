"""`nexus bundle build`, `info`, `verify`, `diff` on a real run: two taught teachers, a student that passes the gate."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nexus_core.bundle.check import check_bundle
from nexus_core.bundle.digest import student_digest
from nexus_core.bundle.reader import open_bundle
from nexus_core.cli.context import open_plugins, open_registry
from nexus_core.cli.main import main
from nexus_core.draft import drafted
from nexus_core.gate import GateOrder, verify_subject, write_report
from nexus_core.gate.report import signed
from nexus_core.student.files import read_student, write_student
from nexus_core.student.model import NexusForCausalLM


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def made(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).parents[1] / "gate/gate_world.py")


@pytest.fixture(scope="session")
def verified_once(made: ModuleType, new_site: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The gate's world after `nexus verify`, which passed."""
    root, site = tmp_path_factory.mktemp("build"), new_site()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site.path))
        patch.setenv("NEXUS_REGISTRY", str(root / "registry.yaml"))
        made.build(root, site)
        with pytest.raises(SystemExit) as ended:
            main(["verify", "--run", str(root / "run")])
        assert not ended.value.code
    return made.World(root, site.path, root / "run")


@pytest.fixture
def run(made: ModuleType, verified_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A verified run of one's own."""
    monkeypatch.syspath_prepend(str(verified_once.site))
    monkeypatch.setenv("NEXUS_REGISTRY", str(verified_once.registry))
    yield Path(shutil.copytree(verified_once.run, tmp_path / "run"))
    assert sorted(path.name for path in (verified_once.root / "teachers").iterdir()) == ["ada", "bob"]


@pytest.fixture
def nexus(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in ("bundle", *arguments)])
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="session")
def built_once(verified_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(verified_once.site))
        patch.setenv("NEXUS_REGISTRY", str(verified_once.registry))
        with pytest.raises(SystemExit) as ended:
            main(["bundle", "build", str(verified_once.run), "--out", str(out), "--name", "mine"])
        assert not ended.value.code
    return out


def test_a_verified_student_becomes_a_bundle(verified_once: Any, built_once: Path) -> None:
    manifest, report = check_bundle(built_once), json.loads((verified_once.run / "verify_report.json").read_text())
    assert manifest.quantisation.kind == "fp32"
    letters, errors = manifest.capabilities["letters"], manifest.capabilities["errors"]
    assert (letters.result.student_score, letters.result.n) == (report["capabilities"]["letters"]["student_score"], 40)
    assert (errors.contract.direction, errors.contract.retain_fraction) == ("lower", 1.03)
    assert letters.options.max_new_tokens == 3
    assert manifest.created_with.keys() == {"nexus-core", "nexus-capability-letters"}
    student = read_student(verified_once.student)
    assert torch.equal(open_bundle(built_once).model().lm_head.weight, student.model.lm_head.weight)
    for path in built_once.rglob("*"):
        text = b"" if path.is_dir() else path.read_bytes()
        assert str(verified_once.root).encode() not in text, f"{path} holds a path of this machine"


def test_info_verify_and_diff_of_it(built_once: Path, tmp_path: Path, nexus: Callable[..., Ended]) -> None:
    shown = nexus("info", built_once)
    assert shown.status == 0 and "mine: " in shown.out and "at least 0.97 of the teacher" in shown.out
    assert json.loads(nexus("info", built_once, "--json").out)["name"] == "mine"
    whole = nexus("verify", built_once)
    assert whole.status == 0 and "every hash is right" in whole.out and "letters" in whole.out
    assert nexus("diff", built_once, built_once).out == "no differences\n"
    other = Path(shutil.copytree(built_once, tmp_path / "other"))
    path = other / "adapters/letters_adapter.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    broken = nexus("verify", other)
    assert (broken.status, broken.out) == (1, "") and "letters_adapter.safetensors was changed" in broken.err
    assert nexus("verify", tmp_path / "nowhere").status == 1


@pytest.mark.slow
def test_two_builds_have_the_same_bytes(
    run: Path, built_once: Path, tmp_path: Path, nexus: Callable[..., Ended]
) -> None:
    assert nexus("build", run, "--out", tmp_path / "again", "--name", "mine").status == 0
    assert student_digest(tmp_path / "again") == student_digest(built_once)


def test_what_was_not_verified_becomes_none(run: Path, tmp_path: Path, nexus: Callable[..., Ended]) -> None:
    (run / "verify_report.json").unlink()
    ended = nexus("build", run, "--out", tmp_path / "bundle")
    assert ended.status == 3 and "was not verified" in ended.err and "nexus verify --run" in ended.err
    assert not (tmp_path / "bundle").exists()


def change_student(run: Path) -> None:
    path = run / "student/adapters/letters.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def edit_report(run: Path) -> None:
    path = run / "verify_report.json"
    path.write_text(path.read_text().replace('"student_score": 1.0', '"student_score": 0.99', 1))


def signed_report(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """An edit by somebody who makes the hash right too."""
    body = json.loads((run / "verify_report.json").read_text())
    change(body)
    del body["report_sha256"]
    write_report(run / "verify_report.json", signed(body))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (change_student, "the student was changed since"),
        (edit_report, "was edited"),
        (
            lambda run: signed_report(run, lambda r: r["capabilities"]["letters"].update(retain_fraction=0.1)),
            "registry",
        ),
        (lambda run: signed_report(run, lambda r: r["capabilities"]["letters"].update(student_score=0.1)), "say fail"),
        (lambda run: signed_report(run, lambda r: r.update(verdict="incomplete", gaps=["a few"])), "incomplete"),
        (lambda run: signed_report(run, lambda r: r["isolation"].update(verdict="fail")), "not to be trusted"),
    ],
    ids=["changed student", "edited report", "edited contract", "figures below", "incomplete", "broken isolation"],
)
def test_what_did_not_pass_as_it_is_becomes_none(
    run: Path, tmp_path: Path, nexus: Callable[..., Ended], spoil: Callable[[Path], None], word: str
) -> None:
    spoil(run)
    ended = nexus("build", run, "--out", tmp_path / "bundle")
    assert ended.status == 3 and word in ended.err, ended.err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_a_quantised_bundle_is_verified_again(run: Path, tmp_path: Path, nexus: Callable[..., Ended]) -> None:
    out = tmp_path / "bundle"
    ended = nexus("build", run, "--out", out, "--quantise", "fp16")
    assert ended.status == 0, ended.err
    manifest, own = check_bundle(out), json.loads((out / "verify_report.json").read_text())
    variant = own["variants"]["fp16"]
    assert variant["verdict"] == "pass" and variant["subject_sha256"] != own["subject_sha256"]
    assert manifest.capabilities["letters"].result.student_score == variant["capabilities"]["letters"]["student_score"]
    assert "fp16" in json.loads((run / "verify_report.json").read_text())["variants"]
    nexus("build", run, "--out", tmp_path / "again", "--quantise", "fp16")
    assert student_digest(out) == student_digest(tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "bundle", "run"]


def spread(model: NexusForCausalLM) -> None:
    """The same function, with the MLP's inner channels on scales from 1/1000 to 1000: 4 bits cannot hold both ends."""
    mlp, order = model.blocks[0].mlp, torch.randperm(64, generator=torch.Generator().manual_seed(0))
    scales = 10 ** torch.linspace(-3, 3, 64)[order]
    with torch.no_grad():
        mlp.up_proj.weight.mul_(scales[:, None])
        mlp.down_proj.weight.div_(scales)
        for adapter in model.adapters.values():
            adapter.delta(0, "mlp.up_proj").b.mul_(scales[:, None])
            adapter.delta(0, "mlp.down_proj").a.div_(scales)


@pytest.mark.slow
def test_a_quantised_student_below_its_contract_becomes_no_bundle(
    run: Path, tmp_path: Path, nexus: Callable[..., Ended]
) -> None:
    student = read_student(run / "student")
    spread(student.model)
    write_student(run / "student", student)
    report = verify_subject(GateOrder(run / "student", run, open_registry(), open_plugins()))
    assert report.passed, "in full precision it passes"
    write_report(run / "verify_report.json", report)
    ended = nexus("build", run, "--out", tmp_path / "bundle", "--quantise", "nf4")
    assert ended.status == 3 and "there is no nf4 bundle" in ended.err and "letters" in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert json.loads((run / "verify_report.json").read_text())["variants"]["nf4"]["verdict"] == "fail"


def test_two_builds_into_one_place_do_not_meet(run: Path, tmp_path: Path, nexus: Callable[..., Ended]) -> None:
    out = tmp_path / "bundle"
    with drafted(out):  # as a build of another run has it
        ended = nexus("build", run, "--out", out)
    assert ended.status == 1 and f"{out} is being written by another process" in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_full_disk_is_said_with_the_place_and_the_old_bundle_stays(
    run: Path, tmp_path: Path, built_once: Path, nexus: Callable[..., Ended]
) -> None:
    out = Path(shutil.copytree(built_once, tmp_path / "bundle"))
    before, limits = student_digest(out), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        ended = nexus("build", run, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ended.status == 1 and f"error: {out} cannot be written: File too large" in ended.err, ended.err
    assert "hint:  make room there" in ended.err and student_digest(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "run"]


def test_a_place_that_nobody_can_write_is_known_first(run: Path, nexus: Callable[..., Ended]) -> None:
    ended = nexus("build", run, "--out", "/proc/bundle", "--quantise", "nf4")
    assert ended.status == 1 and "/proc/bundle cannot be written" in ended.err and "verifying" not in ended.err
    ended = nexus("build", run, "--out", run / "verify_report.json/bundle")
    assert ended.status == 2 and "is no directory" in ended.err


def test_what_a_killed_build_left_of_its_variant_is_swept_by_the_next(
    run: Path, tmp_path: Path, nexus: Callable[..., Ended]
) -> None:
    """Killed while the gate asks the quantised student: all that is left lies in the run."""
    script = "from nexus_core.cli.main import main; import sys; main(['bundle', 'build', *sys.argv[1:]])"
    command = [sys.executable, "-c", script, str(run), "--out", str(tmp_path / "out"), "--quantise", "fp16"]
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "verifying fp16" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stderr.close()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["run"] and (run / ".variant.draft").is_dir()
    ended = nexus("build", run, "--out", tmp_path / "out", "--quantise", "fp16")
    assert ended.status == 0, ended.err
    assert not list(run.glob(".variant*")) and sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_device_that_is_not_there_leaves_the_report_alone(
    run: Path, tmp_path: Path, nexus: Callable[..., Ended]
) -> None:
    before = (run / "verify_report.json").read_bytes()
    ended = nexus("build", run, "--out", tmp_path / "bundle", "--quantise", "fp16", "--device", "gpu")
    assert ended.status == 2 and "the device gpu cannot be used" in ended.err
    assert (run / "verify_report.json").read_bytes() == before


def test_a_place_that_is_taken(run: Path, tmp_path: Path, nexus: Callable[..., Ended]) -> None:
    ended = nexus("build", run, "--out", run)
    assert ended.status == 2 and "is no bundle" in ended.err and (run / "student").is_dir()
