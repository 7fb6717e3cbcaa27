"""What a second `nexus run` does: nothing twice, nothing by halves, and nothing that does not depend on what changed."""

from __future__ import annotations

import json

import pytest

from nexus_core.lock import ProcessLock

EVERYTHING = [
    "profile/ada/letters",
    "profile/bob/errors",
    "architect/base",
    "distill/base",
    "distill/router",
]


def test_each_unit_was_done_once_and_the_flags_are_kept(taught_once) -> None:
    assert taught_once.did() == EVERYTHING
    state = taught_once.state()
    assert state["plugins"] == ["letters", "errors"]
    assert state["stage"] == 4
    assert set(state["units"]) == set(EVERYTHING)


def test_every_teacher_of_the_registry_has_a_fate(taught_once) -> None:
    rows = json.loads((taught_once.run / "registry_report.json").read_text())["teachers"]
    found = {row["teacher"]: row for row in rows}
    assert found["ada"]["status"] == "selected" and found["ada"]["capabilities"] == ["letters"]
    assert found["far"]["status"] == "absent" and found["far"]["how"].startswith("get far")
    assert found["seed"]["status"] == "backbone"
    contracts = json.loads((taught_once.run / "retention_contracts.json").read_text())
    assert contracts["ada/letters"]["retain_fraction"] == 0.97


def test_without_flags_it_is_the_same_run_and_nothing_is_done_again(taught, nexus_run) -> None:
    before = taught.hashes("distill"), (taught.here / ".pipeline_state.json").read_bytes()
    assert nexus_run("--stage", 4).status == 0
    assert taught.did() == []
    assert (taught.hashes("distill"), (taught.here / ".pipeline_state.json").read_bytes()) == before


@pytest.mark.parametrize(
    ("pattern", "unit"),
    [
        ("niwt_stage2_output/profiles/ada/letters/layer_0_basis.npz", "profile/ada/letters"),
        ("niwt_stage2_output/profiles/bob/errors/verify_scores.json", "profile/bob/errors"),
        ("signals/*.npz", None),
        ("architect/base.json", "architect/base"),
        ("distill/made/base/adapters/letters.safetensors", "distill/base"),
        ("distill/made/router.safetensors", "distill/router"),
    ],
)
@pytest.mark.parametrize("damage", ["deleted", "changed"])
def test_an_artifact_that_is_damaged_is_made_again_alone(taught, nexus_run, pattern, unit, damage) -> None:
    before = {name: taught.hashes(name) for name in ("signals", "niwt_stage2_output/profiles", "distill/made")}
    path = sorted(taught.run.glob(pattern))[0]
    unit = unit or f"profile/{owner(path)}"
    path.unlink() if damage == "deleted" else path.write_bytes(
        path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])
    )
    assert nexus_run("--stage", 4).status == 0
    assert taught.did() == [unit]
    assert any(text.startswith(f"{unit} is made again: ") and path.name in text for text in taught.warnings())
    assert {name: stable(taught.hashes(name)) for name in before} == {n: stable(h) for n, h in before.items()}


def owner(path) -> str:
    entry = json.loads(path.with_suffix(".json").read_text())
    return f"{entry['teacher']}/{entry['capability']}"


def stable(hashes) -> dict[str, str]:
    """Without what was told of teaching, which holds times."""
    return {name: digest for name, digest in hashes.items() if name not in ("base.json", "router.json")}


def test_a_store_without_its_manifest_is_measured_again_as_a_whole(taught, nexus_run) -> None:
    (taught.run / "niwt_stage2_output/manifest.json").unlink()
    assert nexus_run("--stage", 2).status == 0
    assert taught.did() == EVERYTHING[:2]


def test_of_a_changed_registry_only_what_depends_on_it_is_done_again(taught, nexus_run, made) -> None:
    made.write_registry(taught.root, {"retain_fraction: 3.0": "retain_fraction: 4.0"})
    assert nexus_run("--stage", 4).status == 0
    assert taught.did() == ["distill/base"]
    made.write_registry(
        taught.root, {"retain_fraction: 3.0": "retain_fraction: 4.0", "pilot_samples: 12": "pilot_samples: 8"}
    )
    assert nexus_run("--stage", 2).status == 0
    assert taught.did() == EVERYTHING[:2]
    made.write_registry(taught.root, {"description: the same": "description: very much the same"})
    assert nexus_run("--stage", 0).status == 0
    assert taught.did() == []


def test_another_rate_of_the_router_teaches_the_router_alone(taught, nexus_run) -> None:
    assert nexus_run("--stage", 4, "--router-lr", "0.01").status == 0
    assert taught.did() == ["distill/router"]
    assert nexus_run("--stage", 4).status == 0
    assert taught.did() == []


def test_a_slip_in_the_command_does_not_stick(taught, nexus_run) -> None:
    before = taught.state()
    ended = nexus_run("--plugins", "leters")
    assert ended.status == 2 and "did you mean 'letters'?" in ended.err
    ended = nexus_run("--teachers", "far")
    assert ended.status == 1 and "teacher far is absent" in ended.err
    assert taught.state() == before


def test_a_plan_changes_nothing(world, nexus_run) -> None:
    ended = nexus_run("--dry-run", "--plugins", "letters")
    assert ended.status == 0
    assert list(world.here.iterdir()) == []
    lines = [line.split() for line in ended.out.splitlines()]
    assert [line[2] for line in lines if line and line[0].isdigit()] == [
        "profile/ada/letters",
        "architect/base",
        "distill/base",
        "distill/router",
        "verify/0",
        "bundle",
        "report",
    ]
    assert "get far and set `path:` of its row" in ended.out
    assert "does not fit" not in ended.err


def test_a_plan_knows_what_is_done_and_what_is_damaged(taught, nexus_run) -> None:
    (taught.run / "distill/made/router.safetensors").unlink()
    rows = {line.split()[2]: line for line in nexus_run("--dry-run").out.splitlines() if line[:1].isdigit()}
    assert rows["distill/base"].endswith("done")
    assert rows["distill/router"].endswith("router.safetensors is gone")
    assert rows["verify/0"].endswith("to do")


def test_two_in_one_directory(taught, nexus_run) -> None:
    with ProcessLock(taught.run / ".lock", "the run", "nexus profile"):
        ended = nexus_run()
    assert ended.status == 1 and "is in use by process" in ended.err


def test_reset_deletes_what_the_run_made_and_nothing_else(taught, nexus_run) -> None:
    (taught.run / "notes.txt").write_text("mine")
    ended = nexus_run("--reset", "--stage", 0, "--plugins", "letters")
    assert ended.status == 0
    assert f"deleted: {(taught.run / 'signals').relative_to(taught.here)}" in ended.err
    left = {path.name for path in taught.run.iterdir()}
    assert left == {
        ".lock",
        "notes.txt",
        "events.jsonl",
        "scope.json",
        "registry_report.json",
        "retention_contracts.json",
    }
    assert taught.state() == {"schema_version": 1, "plugins": ["letters"], "stage": 0}


def test_without_a_state_there_is_nothing_to_resume(world, nexus_run) -> None:
    ended = nexus_run("--resume")
    assert ended.status == 2 and "nothing to resume" in ended.err
    assert list(world.here.iterdir()) == []
