"""`nexus bundle export`, funnel and all, on a bundle of a tiny student."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_core.bundle.export.files import becoming
from nexus_core.cli.main import main
from nexus_core.errors import UsageError

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def lenient(bundle_with) -> Path:
    """Any score meets its contract."""
    return bundle_with(None, 0.0)


@pytest.fixture(scope="module")
def strict(bundle_with) -> Path:
    """A student that knows nothing does not meet it."""
    return bundle_with(0.9, None)


@pytest.fixture
def export(capsys, tmp_path, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.delenv("NEXUS_PLUGINS", raising=False)

    def run(bundle: Path, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bundle", "export", str(bundle), "--out", str(tmp_path / "out"), *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("to", ["hf", "peft", "gguf"])
def test_an_export_carries_what_it_scored(lenient, export, tmp_path, to, monkeypatch):
    if to == "gguf":
        pytest.importorskip("xllamacpp")
        monkeypatch.setattr("nexus_core.bundle.export.engine.RULES", ("gpt-2", "llama-bpe"))  # each takes a second
    status, out, err = export(lenient, "--to", to, "--capability", "reasoning", "--dtype", "fp32")
    assert status == 0, err
    assert left(tmp_path) == ["out"]
    report = json.loads((tmp_path / "out/export_report.json").read_text())
    assert report["verdict"] == "pass" and report["capabilities"] == ["reasoning"] and report["bottlenecks"] == 2
    for line in report["lines"]:
        assert (line["n"], line["gate_n"], line["seed"], line["in_contract"]) == (3, 3, 42, True)
        assert line["score"] == line["bundle_score"] == 0.0 and line["ratio_to_teacher"] == 0.0
        assert 0 <= line["same_answers"] <= 1
    assert [line["asked"] for line in report["lines"]] == (
        ["the student's tokens", "text, by the file's tokenizer"] if to == "gguf" else [""]
    )
    readme = (tmp_path / "out/README.md").read_text()
    assert "RMSNorm" in readme and "| reasoning |" in readme and "no router" in readme
    assert (tmp_path / "out/LICENSE").read_text() == (lenient / "LICENSE").read_text()
    assert "RMSNorm" in out and "asking reasoning" in err
    assert str(tmp_path) not in (tmp_path / "out/export_report.json").read_text() + readme


def test_below_its_contract_there_is_none(strict, export, tmp_path):
    status, out, err = export(strict, "--to", "hf", "--capability", "reasoning")
    assert (status, out, left(tmp_path)) == (3, "", [])
    assert "error: there is no export: reasoning: 0 is below 0.45, which is 0.9 of the teacher's 0.5" in err
    assert "--allow-below-contract" in err


def test_unless_it_is_allowed_and_then_it_says_so(strict, export, tmp_path):
    status, out, err = export(strict, "--to", "hf", "--capability", "reasoning", "--allow-below-contract", "--json")
    assert status == 0 and "below: reasoning (hf): 0 is below 0.45" in err
    report = json.loads(out)
    assert report == json.loads((tmp_path / "out/export_report.json").read_text())
    assert report["verdict"] == "fail" and report["lines"][0]["in_contract"] is False
    assert "**It does not keep everything:**" in (tmp_path / "out/README.md").read_text()


def test_the_backbone_must_answer_as_the_bundles_does(lenient, export, tmp_path):
    status, _, err = export(lenient, "--to", "hf", "--dtype", "fp32", "--samples", "2")
    assert status == 0, err
    lines = json.loads((tmp_path / "out/export_report.json").read_text())["lines"]
    assert {line["capability"] for line in lines} == {"backbone on reasoning", "backbone on tools"}
    assert {(line["same_answers"], line["in_contract"], line["n"], line["gate_n"]) for line in lines} == {
        (1.0, None, 2, 3)
    }


def test_an_export_with_other_answers_is_refused(lenient, export, tmp_path, monkeypatch):
    """A writer that forgets the final norm: the file loads and answers, and its answers are not the bundle's."""
    import torch

    from nexus_core.bundle.export import hf

    whole = hf.as_plain

    def damaged(*given, **more):
        model = whole(*given, **more)
        torch.nn.init.uniform_(model.model.norm.weight, -1, 1)
        return model

    monkeypatch.setattr(hf, "as_plain", damaged)
    status, _, err = export(lenient, "--to", "hf", "--dtype", "fp32")
    assert (status, left(tmp_path)) == (3, [])
    assert "of its answers are not the bundle's" in err


def test_isolated_adapters_are_left_out_or_refused(lenient, export, tmp_path):
    status, _, err = export(lenient, "--to", "peft", "--capability", "secret")
    assert (status, left(tmp_path)) == (2, []) and '"secret" is isolated' in err and "--enable-uncensored" in err
    status, _, err = export(lenient, "--to", "peft", "--samples", "1")
    assert status == 0, err
    assert left(tmp_path / "out") == ["LICENSE", "README.md", "base", "export_report.json", "reasoning", "tools"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "hf", "--capability", "reasoning", "--capability", "tools"], "--to hf holds one capability"),
        (["--to", "hf", "--capability", "resoning"], 'no capability "resoning", did you mean'),
        (["--to", "gguf", "--dtype", "bf16"], "this form is not written in bf16"),
    ],
)
def test_what_cannot_be_meant(lenient, export, tmp_path, arguments, said):
    status, _, err = export(lenient, *arguments)
    assert status == 2 and said in err.replace("; did", ", did"), err
    assert left(tmp_path) == []


@pytest.mark.parametrize("to", ["hf", "peft"])
def test_a_full_disk_is_said_with_the_place(lenient, export, tmp_path, to):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the system refuses what goes beyond
    try:
        status, _, err = export(lenient, "--to", to, "--dtype", "fp32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1 and f"error: {tmp_path / 'out'} cannot be written: File too large" in err, err
    assert left(tmp_path) == []


def test_a_place_that_is_taken_stays_as_it_is(tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(UsageError, match="is there already"), becoming(taken):
        raise AssertionError("nothing is written")
    with pytest.raises(UsageError, match="is no directory"), becoming(tmp_path / "no" / "out"):
        raise AssertionError("nothing is written")
    (tmp_path / ".out.draft").mkdir()
    (tmp_path / ".out.draft" / "of a killed writer").touch()
    with becoming(tmp_path / "out") as draft:
        (draft / "new").touch()
    assert left(tmp_path) == ["out", "taken"] and left(tmp_path / "out") == ["new"]
