"""`nexus profile` on a teacher of the zoo, and on everything that must stop it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from nexus_core.cli.main import cli
from nexus_core.errors import ModelError, NexusError, RegistryError


def run(*arguments: str):
    return CliRunner().invoke(cli, ["profile", *arguments], catch_exceptions=False)


def test_both_names_are_wanted():
    result = CliRunner().invoke(cli, ["profile", "--teacher", "zoo-code"])
    assert result.exit_code == 2
    assert "--teacher and --capability" in result.output


def test_a_reference_of_no_samples_is_refused():
    names = ["--teacher", "zoo-code", "--capability", "code"]
    result = CliRunner().invoke(cli, ["profile", *names, "--reference-only", "--gate-samples", "0"])
    assert result.exit_code == 2
    assert "asks for nothing" in result.output


def test_a_reference_of_a_teacher_that_was_not_profiled_is_refused(tmp_path):
    names = ["--teacher", "zoo-code", "--capability", "code", "--run", str(tmp_path)]
    with pytest.raises(NexusError, match="is not a directory") as error:
        run(*names, "--reference-only")
    assert "nexus profile" in error.value.hint


def test_an_unread_licence_stops_it():
    with pytest.raises(NexusError, match="is not profiled: its licence is") as error:
        run("--teacher", "nvidia-personaplex-7b-v1", "--capability", "voice")
    assert "read the licence" in error.value.hint


def test_an_absent_teacher_says_how_to_get_it():
    with pytest.raises(ModelError, match="is absent") as error:
        run("--teacher", "zai-org-glm-4.7-flash", "--capability", "reasoning")
    assert "GLM-4.7-Flash" in error.value.hint


def test_unknown_names_are_guessed():
    with pytest.raises(RegistryError, match="did you mean"):
        run("--teacher", "zoo-cod", "--capability", "code")
    with pytest.raises(RegistryError, match="did you mean"):
        run("--teacher", "zoo-code", "--capability", "cod")


@pytest.mark.slow
def test_profile_show_resume_and_a_damaged_artifact(tmp_path):
    base = ["--teacher", "zoo-code", "--capability", "code", "--run", str(tmp_path), "--sample-size", "16"]
    first = run(*base, "--signals", "8", "--gate-samples", "6")
    assert first.exit_code == 0
    assert "non_negotiable" in first.output
    profile = tmp_path / "niwt_stage2_output" / "profiles" / "zoo-code" / "code"
    before = {path.name: path.read_bytes() for path in profile.iterdir()}
    assert {"components.json", "heads_importance.json", "verify_outputs.jsonl", "verify_scores.json"} <= set(before)

    again = run(*base, "--signals", "8", "--gate-samples", "6", "--resume")
    assert again.exit_code == 0
    assert "profiled already" in again.output
    assert "scored already" in again.output
    assert {path.name: path.read_bytes() for path in profile.iterdir()} == before

    scored = run(*base, "--reference-only", "--gate-samples", "8")
    assert scored.exit_code == 0
    assert "on 8 samples of the verify split" in scored.output
    assert "baseline" not in scored.output and "signals" not in scored.output
    assert json.loads((profile / "verify_scores.json").read_bytes())["n"] == 8

    picture = tmp_path / "profile.png"
    shown = run("show", "zoo-code", "code", "--run", str(tmp_path), "--json", "--plot", str(picture))
    document = json.loads(shown.stdout)
    assert document["blocks"] and all(block["components"] for block in document["blocks"])
    assert {type(component["drop"]) for block in document["blocks"] for component in block["components"]} == {float}
    assert picture.read_bytes().startswith(b"\x89PNG")

    basis = next(profile.glob("*_basis.npz"))
    basis.write_bytes(basis.read_bytes()[:-7] + b"damaged")
    with pytest.raises(NexusError, match=basis.name):
        run("show", "zoo-code", "code", "--run", str(tmp_path))


@pytest.mark.slow
def test_own_data_are_for_the_profile_and_the_contracts_benchmark_for_the_scores(tmp_path):
    """The gate asks the benchmark of the contract, so that is what the teacher must have been asked."""
    from nexus_core.cli.context import open_plugins
    from nexus_core.profiling.artifacts import ProfileStore
    from nexus_core.types import SampleRequest, Split

    samples = open_plugins().capability_metric("reasoning").samples(SampleRequest(Split.TRAIN, 40))
    data = tmp_path / "data"
    data.mkdir()
    rows = [json.dumps({"question": sample.prompt, "answer": sample.target}) for sample in samples]
    (data / "validation.jsonl").write_text("\n".join(rows))
    run_directory = tmp_path / "run"
    names = [
        "--teacher",
        "zoo-reasoning",
        "--capability",
        "reasoning",
        "--data",
        str(data),
        "--layers",
        "model.layers.1",
    ]
    run(*names, "--run", str(run_directory), "--sample-size", "8", "--signals", "0", "--gate-samples", "4")
    found = ProfileStore(run_directory / "niwt_stage2_output").reference("zoo-reasoning", "reasoning")
    assert (found.data, found.n) == (None, 4)
