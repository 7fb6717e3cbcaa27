"""docs/generate.py: a stale part is noticed and renewed, and the zoo's table says what its cards say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

CARD = {
    "id": "zoo-sums",
    "parameters": 1_401_280,
    "made_by": {"command": "python -m nexus_teacher_zoo.recipes train sums --steps 670"},
    "held_out": {
        "capability": "math",
        "metric": "exact_answer",
        "direction": "higher",
        "value": 0.742,
        "n": 500,
        "ci95": [0.7019, 0.7784],
        "baselines": {"random": {"value": 0.0}, "majority": {"value": 0.002}},
        "memorisation_control": {"value": 0.004},
    },
}
BACKBONE = {**CARD, "id": "zoo-backbone", "held_out": {"metric": "cross-entropy", "nats_per_byte": 1.21, "n": 102_000}}


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, on a documentation of its own."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "CLI_PAGE", tmp_path / "docs" / "reference" / "cli.md")
    monkeypatch.setattr(module, "CARDS", tmp_path / "weights")
    (tmp_path / "README.md").write_text("Before.\n<!-- generated: zoo -->\nold\n<!-- end of generated -->\nAfter.\n")
    return module


def test_the_pages_here_are_up_to_date() -> None:
    command = [sys.executable, ROOT / "docs" / "generate.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_stale_page_is_noticed_then_renewed(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--check"]) == 1
    assert "README.md is out of date" in capsys.readouterr().out
    assert "old" in (tmp_path / "README.md").read_text()
    assert generate.main([]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "No zoo teacher has been trained" in text
    assert "old" not in text
    assert generate.main(["--check"]) == 0


def test_the_layers_are_those_of_the_import_law_that_exist(generate: ModuleType, tmp_path: Path) -> None:
    law = "[importlinter:contract:layers]\nlayers =\n    nexus_core.cli\n    (nexus_core.nowhere)\n"
    law += "    (nexus_core.hf) | nexus_core.errors | (nexus_core.soon)\nignore_imports =\n"
    (tmp_path / ".importlinter").write_text(law)
    assert generate.layers("") == "```text\ncli\nhf   errors\n```"


def test_the_zoo_table_says_what_the_cards_say(generate: ModuleType, tmp_path: Path) -> None:
    for card in (CARD, BACKBONE):
        path = tmp_path / "weights" / str(card["id"]) / "card.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(card, sort_keys=False))
    head, _, backbone, sums = (line.strip("| ").split(" | ") for line in generate.zoo("").splitlines())
    command = "`python -m nexus_teacher_zoo.recipes train sums --steps 670`"
    scores = ["0.742 (0.702 to 0.778)", "500", "random 0.000, majority 0.002", "0.004"]
    assert sums == ["zoo-sums", "1,401,280", "math: exact_answer, higher is better", *scores, command]
    assert backbone[2:5] == ["cross-entropy, lower is better", "1.21 nats per byte", "102000"]
    assert len(head) == len(sums)


def test_every_command_has_its_help(generate: ModuleType) -> None:
    from nexus_core.cli.main import COMMANDS

    page = generate.cli_page()
    for name in COMMANDS:
        assert f"### `nexus {name}`\n" in page
    assert "#### `nexus plugins new`" in page
