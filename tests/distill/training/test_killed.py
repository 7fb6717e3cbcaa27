"""kill -9 at any moment: training goes on from its checkpoint and ends bit-equal, and the journal has every step once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("tiny_job.py")


def numbers(folder):
    """(step, loss) of each step, and which positions were discarded, in the order of the lines."""
    rows = [json.loads(line) for line in (folder / "journal" / "steps.jsonl").read_text().splitlines()]
    steps = [(row["step"], row["loss"], row["gradient_norm"]) for row in rows if "event" not in row]
    return steps, [(row["position"], row["to"]) for row in rows if row.get("event") == "rollback"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed", "troubles"), [*(("alone", seed, [17, 33]) for seed in (1, 2, 3)), ("joint", 4, [])]
)
def test_killed_at_random_moments_it_ends_bit_equal(tmp_path, kind, seed, troubles):
    command = [sys.executable, str(SCRIPT), str(tmp_path), "6", str(seed), kind]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 3, "most kills found the training alive"
    whole, killed = tmp_path / "undisturbed", tmp_path / "killed"
    weights, others = load_file(whole / "weights.safetensors"), load_file(killed / "weights.safetensors")
    assert weights.keys() == others.keys()
    assert all(others[name].equal(tensor) for name, tensor in weights.items())
    assert numbers(killed) == numbers(whole)
    assert [position for position, _ in numbers(whole)[1]] == troubles
    one, two = (json.loads((folder / "outcome.json").read_text()) for folder in (whole, killed))
    for key in ("reason", "steps", "lost", "positions", "tokens", "rollbacks"):
        assert one[key] == two[key]
