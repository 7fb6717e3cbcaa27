"""A unit is done when the state says so, its record says the same, and every file is as it left it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nexus_core.pipeline.hashes import Hashes
from nexus_core.pipeline.units import Ledger, Unit, digest_of
from nexus_core.types import Direction


class Memory:
    """A state that is not on the disk."""

    def __init__(self) -> None:
        self.units: dict[str, str] = {}

    def is_done(self, unit: str, digest: str) -> bool:
        return self.units.get(unit) == digest

    def done(self, unit: str, digest: str) -> None:
        self.units[unit] = digest


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path, Memory())


@pytest.fixture
def unit() -> Unit:
    return Unit("profile/ada/math", 2, "digest", lambda desk: ())


def finish(ledger: Ledger, unit: Unit) -> None:
    (ledger.run / "folder").mkdir(exist_ok=True)
    (ledger.run / "folder/a").write_text("a")
    (ledger.run / "b").write_text("b")
    ledger.begin(unit)
    ledger.end(unit, [ledger.run / "folder", ledger.run / "b"], 1.0)


def test_a_finished_unit_is_done(ledger: Ledger, unit: Unit) -> None:
    assert not ledger.done(unit)
    finish(ledger, unit)
    assert ledger.done(unit)
    assert not ledger.done(replace(unit, digest="other"))
    record = ledger.record(unit.name)
    assert record is not None and record.outputs is not None and sorted(record.outputs) == ["b", "folder/a"]


@pytest.mark.parametrize(("path", "says"), [("folder/a", "is gone"), ("b", "is gone")])
def test_a_file_that_is_gone_is_named(ledger: Ledger, unit: Unit, path: str, says: str) -> None:
    finish(ledger, unit)
    (ledger.run / path).unlink()
    assert not ledger.done(unit)
    assert ledger.damage(unit) == [f"{ledger.run / path} {says}"]


def test_a_file_that_was_changed_is_named_and_listed(ledger: Ledger, unit: Unit) -> None:
    finish(ledger, unit)
    (ledger.run / "b").write_text("c")
    assert ledger.damage(unit) == [f"{ledger.run / 'b'} was changed since it was written"]
    assert ledger.damaged_files(unit.name) == [ledger.run / "b"]


def test_what_is_unsound_beyond_its_bytes_is_not_done(ledger: Ledger, unit: Unit) -> None:
    finish(ledger, unit)
    assert not ledger.done(replace(unit, sound=lambda: ["its neighbours are broken"]))


def test_whoever_begins_again_with_the_same_inputs_goes_on(ledger: Ledger, unit: Unit) -> None:
    assert ledger.begin(unit)
    assert not ledger.begin(unit)
    assert ledger.begin(replace(unit, digest="other"))
    assert not ledger.done(replace(unit, digest="other"))


def test_killed_between_record_and_state_it_is_done_again(ledger: Ledger, unit: Unit) -> None:
    finish(ledger, unit)
    assert isinstance(ledger.state, Memory)
    ledger.state.units.clear()
    assert not ledger.done(unit)
    assert not ledger.begin(unit), "what is there is of these inputs"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"digest": 1}', b"\xff"])
def test_a_record_that_cannot_be_read_is_none(ledger: Ledger, unit: Unit, content: bytes) -> None:
    finish(ledger, unit)
    (ledger.run / "units/profile/ada/math.json").write_bytes(content)
    assert ledger.record(unit.name) is None
    assert not ledger.done(unit)


def test_a_bundle_may_lie_elsewhere(ledger: Ledger, unit: Unit, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("out") / "file"
    elsewhere.write_text("bundle")
    ledger.end(unit, [elsewhere], 0.0)
    assert ledger.done(unit)
    elsewhere.unlink()
    assert not ledger.done(unit)


def test_a_digest_is_of_values_and_not_of_their_order() -> None:
    one = digest_of(a={"x": 1, "y": (1, 2)}, b=Direction.HIGHER, c=Path("p"))
    assert one == digest_of(c="p", b="higher", a={"y": [1, 2], "x": 1})
    assert one != digest_of(c="p", b="lower", a={"y": [1, 2], "x": 1})


def test_large_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nexus_core.pipeline import hashes

    monkeypatch.setattr(hashes, "LARGE", 1)
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights")
    (folder / "README.md").write_text("one")
    known = Hashes(tmp_path / "files.json")
    first = known.of(folder)
    known.save()
    with monkeypatch.context() as patch:
        patch.setattr(hashes, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
        assert Hashes(tmp_path / "files.json").of(folder) == first
    (folder / "README.md").write_text("two")
    assert Hashes(tmp_path / "files.json").of(folder) == first, "what is said about a checkpoint is no part of it"
    (folder / "weights").write_bytes(b"other weights")
    assert Hashes(tmp_path / "files.json").of(folder) != first
    (tmp_path / "files.json").write_text(json.dumps({"x": 1}))
    assert Hashes(tmp_path / "files.json").of(folder)
