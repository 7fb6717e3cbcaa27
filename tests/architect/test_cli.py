"""`nexus architect`: the file it writes, what it prints, and everything that must stop it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from nexus_core.cli.context import load_teacher, open_plugins
from nexus_core.cli.main import cli
from nexus_core.errors import DataError, UsageError
from nexus_core.profiling.run import weights_hash
from nexus_core.student.arch import read_arch
from nexus_core.testing import tiny


@pytest.fixture
def run(bench, monkeypatch):
    """The command, on the bench's run and with its registry."""
    monkeypatch.setenv("NEXUS_REGISTRY", str(bench.registry.path))

    def invoke(*arguments: str):
        return CliRunner().invoke(cli, ["architect", "--run", str(bench.run), *arguments], catch_exceptions=False)

    return invoke


@pytest.fixture
def three(bench):
    for teacher, capability in (("ada", "reasoning"), ("bob", "code"), ("cyd", "tools")):
        bench.profile(teacher, capability)


def test_it_writes_the_shape_and_prints_every_decision(bench, run, three):
    result = run()
    assert result.exit_code == 0
    arch = read_arch(bench.run / "student_arch.json")
    assert (arch.preset, arch.seed, len(arch.adapters)) == ("tiny", 42, 3)
    lines = result.stdout.splitlines()
    for adapter in arch.adapters:
        assert any(line.startswith(f"{adapter.capability}  ") and adapter.teacher in line for line in lines)
    for decision in arch.decisions:
        assert any(decision.subject in line and decision.reason in line for line in lines), decision
    (total,) = [line for line in lines if line.startswith("total ")]
    assert "its largest teacher, bob, 90,000" in total
    assert "ada: weights not compared with the profile's" in result.stderr


def test_json_is_the_file_and_the_sizes(bench, run, three):
    result = run("--preset", "small", "--capability", "code", "--seed", "7", "--json")
    document = json.loads(result.stdout)
    sizes = document.pop("parameters")
    assert document == json.loads((bench.run / "student_arch.json").read_bytes())
    assert (document["seed"], [a["capability"] for a in document["adapters"]]) == (7, ["code"])
    assert sizes["total"] == sizes["backbone"] + sizes["adapters"] + sizes["towers"] + sizes["router"]
    assert "written to" in result.stderr


def test_twice_the_same_bytes(bench, run, three):
    run()
    first = (bench.run / "student_arch.json").read_bytes()
    run()
    assert (bench.run / "student_arch.json").read_bytes() == first


def test_a_failure_leaves_what_was_there(bench, run, three):
    run()
    before = (bench.run / "student_arch.json").read_bytes()
    with pytest.raises(DataError, match="more than allowed"):
        run("--capability", "reasoning")
    assert (bench.run / "student_arch.json").read_bytes() == before


def test_presets_of_ones_own(bench, run, three, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "version: 1\ntower_latent_factor: 1.2\ncompare_weights_up_to: 0\npresets:\n  mine:\n    description: x\n"
        "    backbone: {source: zoo-backbone}\n"
        "    adapters: {rank_most: 8, delta_targets: [], delta_rank: {least: 0, most: 0}}\n"
        "    towers: {text: {thought_tokens: 0}}\n    router: {buckets: 16, width: 2, most: 1}\n    budget: {}\n"
    )
    assert run("--presets", str(file), "--preset", "mine").exit_code == 0
    adapters = read_arch(bench.run / "student_arch.json").adapters
    assert {(a.delta_rank, a.delta_targets, a.sites[0].rank) for a in adapters} == {(0, (), 8)}
    with pytest.raises(UsageError, match=r'no preset "tiny" in .*mine\.yaml'):
        run("--presets", str(file))


def test_a_misspelt_preset_is_guessed(run, three):
    with pytest.raises(UsageError, match='did you mean "design"'):
        run("--preset", "desgin")


def test_without_profiles_it_says_what_to_do(run):
    with pytest.raises(DataError, match="is not a directory") as error:
        run()
    assert "nexus profile" in error.value.hint


@pytest.mark.parametrize("same", [True, False])
def test_weights_of_a_teacher_that_is_here_are_compared(bench, run, same):
    home = bench.registry.path.parent
    tiny.save_causal_lm(home / "ada", "llama")
    text = bench.registry.path.read_text().replace("path: null, license: MIT}", "path: ada, license: MIT}", 1)
    assert "path: ada" in text
    bench.registry.path.write_text(text)
    row = replace(bench.registry.teacher("ada"), path="ada")
    now = weights_hash(load_teacher(open_plugins(), row))
    bench.profile("ada", "reasoning", weights_hash=now if same else "0" * 64)
    if same:
        result = run("--preset", "small")
        assert result.exit_code == 0
        assert "not compared" not in result.stderr
    else:
        with pytest.raises(DataError, match="other weights of ada"):
            run("--preset", "small")
