"""Sticky state: what was given stays given, hand edits are checked, and no kill leaves a broken file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nexus_core.errors import StateError
from nexus_core.state import NOT_GIVEN, SCHEMA_VERSION, StateStore, read_state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".pipeline_state.json"


def test_a_flagless_resume_is_the_same_run(path: Path) -> None:
    given = {"plugins": ["text"], "lr": 0.001, "packing": False, "seed": 42, "datasets": {"math": [Path("d/gsm8k")]}}
    with StateStore(path) as state:
        first = state.merge_flags({**given, "epochs": NOT_GIVEN})
    before = path.read_bytes()
    with StateStore(path) as state:
        again = state.merge_flags(dict.fromkeys([*given, "epochs"], NOT_GIVEN))
    assert dict(again) == dict(first) == {**given, "datasets": {"math": ["d/gsm8k"]}}
    assert path.read_bytes() == before


def test_not_given_is_neither_a_default_nor_none(path: Path) -> None:
    with StateStore(path) as state:
        assert "quantization" not in state.merge_flags({"quantization": NOT_GIVEN})
        assert state.merge_flags({"quantization": None})["quantization"] is None
        assert state.merge_flags({"quantization": NOT_GIVEN})["quantization"] is None
        assert state.merge_flags({"quantization": "nf4"})["quantization"] == "nf4"
    assert json.loads(path.read_text())["optimisation"] == {"quantization": "nf4"}


def test_a_later_flag_replaces_an_earlier_one_and_no_other(path: Path) -> None:
    with StateStore(path) as state:
        state.merge_flags({"lr": 0.001, "epochs": 3})
        assert dict(state.merge_flags({"lr": 0.01})) == {"lr": 0.01, "epochs": 3}


def test_nothing_is_written_when_nothing_is_given(path: Path) -> None:
    with StateStore(path) as state:
        assert dict(state.merge_flags({"lr": NOT_GIVEN})) == {}
    assert not path.exists()


def test_what_is_returned_cannot_change_what_is_recorded(path: Path) -> None:
    with StateStore(path) as state:
        flags = state.merge_flags({"lr": 0.001})
        with pytest.raises(TypeError):
            flags["lr"] = 1  # type: ignore[index]


def test_units_are_done_with_the_hash_of_what_went_in(path: Path) -> None:
    with StateStore(path) as state:
        assert not state.is_done("profile/ada/math", "h1")
        state.done("profile/ada/math", "h1")
        state.done("train/math", "h2")
    with StateStore(path) as state:
        assert state.is_done("profile/ada/math", "h1")
        assert not state.is_done("profile/ada/math", "h2"), "other inputs: to be done again"
        state.undo("profile/ada/math")
        assert not state.is_done("profile/ada/math", "h1")
        assert state.is_done("train/math", "h2")


def test_the_stage_that_passed_is_kept(path: Path) -> None:
    with StateStore(path) as state:
        assert state.stage is None
        state.pass_stage(2)
    with StateStore(path) as state:
        assert state.stage == 2
        with pytest.raises(StateError, match='key "stage"'):
            state.pass_stage(9)
        assert state.stage == 2


@pytest.mark.parametrize("content", ['{"schema_version": 1, "seed": 7}', "{broken"])
def test_reset_deletes_also_what_is_broken(path: Path, content: str) -> None:
    path.write_text(content)
    with StateStore(path) as state:
        state.reset()
        assert not path.exists()
        assert dict(state.flags) == {}
        state.reset()
    assert read_state(path) == {"schema_version": SCHEMA_VERSION}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 1, "plugns": []}', 'unknown key "plugns"; did you mean "plugins"?'),
        (
            '{"schema_version": 1, "hyperparameters": {"epoch": 3}}',
            'unknown key "hyperparameters.epoch"; did you mean "epochs"?',
        ),
        (
            '{"schema_version": 1, "hyperparameters": {"lr": "fast"}}',
            "key \"hyperparameters.lr\": 'fast' is not of type",
        ),
        ('{"schema_version": 1, "hyperparameters": {"lr": 0}}', 'key "hyperparameters.lr"'),
        ('{"schema_version": 1, "optimisation": {"packing": "yes"}}', 'key "optimisation.packing"'),
        ('{"schema_version": 1, "optimisation": {"quantization": "int3"}}', 'key "optimisation.quantization"'),
        ('{"schema_version": 1, "plugins": "text"}', 'key "plugins"'),
        ('{"schema_version": 1, "datasets": {"math": "d"}}', 'key "datasets.math"'),
        ('{"schema_version": 1, "seed": true}', 'key "seed"'),
        ('{"schema_version": 1, "units": {"a": 1}}', 'key "units.a"'),
        ('{"schema_version": 1, "seed": 1, "seed": 2}', 'the key "seed" appears twice'),
        ('{"schema_version": 1, "seed": NaN}', "NaN is not a number"),
        ('{"schema_version": 1,\n "seed": }', "is not JSON: Expecting value (line 2, column 10)"),
        ('{"schema_version": 2}', "was written by a newer Nexus (schema_version 2; this one knows 1)"),
        ('{"schema_version": 0}', 'key "schema_version"'),
        ('{"seed": 1}', 'no "schema_version"'),
        ("[]", "is not of type 'object'"),
        ("", "is not JSON"),
        ("[" * 100_000, "cannot be used"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_bad_edit_is_one_line_that_names_the_key(path: Path, text: str | bytes, message: str) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with StateStore(path) as state, pytest.raises(StateError) as error:
        state.merge_flags({"lr": 0.1})
    assert message in error.value.message
    assert error.value.message.startswith(str(path))
    assert "\n" not in error.value.message
    assert "delete the file" in error.value.hint
    assert path.read_bytes() == (text if isinstance(text, bytes) else text.encode()), (
        "a bad file is left for its author"
    )


def test_a_good_edit_counts(path: Path) -> None:
    with StateStore(path) as state:
        state.merge_flags({"epochs": 3})
    path.write_text(path.read_text().replace('"epochs": 3', '"epochs": 5'))
    with StateStore(path) as state:
        assert state.merge_flags({})["epochs"] == 5


def test_a_bad_flag_is_named_and_not_recorded(path: Path) -> None:
    with StateStore(path) as state:
        with pytest.raises(StateError, match=r'the command line: key "hyperparameters\.epochs"') as error:
            state.merge_flags({"epochs": -1})
        assert "another value" in error.value.hint
        with pytest.raises(StateError, match='unknown flag "epoch"; did you mean "epochs"'):
            state.merge_flags({"epoch": 3})
        with pytest.raises(StateError, match='unknown flag "units"'):
            state.merge_flags({"units": {}})
        assert dict(state.flags) == {}
    assert not path.exists()


HOLDER = """
import sys
from pathlib import Path
from nexus_core.state import StateStore
with StateStore(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_process_is_told_who_holds_the_file(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):  # the first attempt must not wipe out what the second one needs to read
            with pytest.raises(StateError, match=f"is in use by process {holder.pid}$") as error, StateStore(path):
                raise AssertionError("two processes held the state at once")
            assert f"kill {holder.pid}" in error.value.hint
    finally:
        holder.communicate("")
    with StateStore(path) as state:
        state.pass_stage(1)


def test_a_lock_that_cannot_be_taken_is_an_error(path: Path) -> None:
    path.with_name(f"{path.name}.lock").mkdir()
    with pytest.raises(StateError, match="cannot be locked"), StateStore(path):
        raise AssertionError("locked a directory")


# One process that forks a writer, kills it at a random moment and looks, twenty times: a fork costs no start-up.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from nexus_core.state import StateStore, read_state

path, moments, seen = Path(sys.argv[1]), random.Random(42), set()
for round in range(20):
    with StateStore(path) as state:  # the dead writer's lock is free
        state.done("round", str(round))
    writer = os.fork()
    if writer == 0:
        with StateStore(path) as state:
            for i in range(1_000_000):
                state.done(f"unit{i % 50}", f"hash{round}.{i}" * 100)
    time.sleep(moments.uniform(0.002, 0.08))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    state = read_state(path)  # raises on a torn file
    assert state["units"]["round"] == str(round), "an older file came back"
    seen.add(json.dumps(state))
print(len(seen))
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLER, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3, "the writers were killed before they wrote: the test proves nothing"
    left = {file.name for file in path.parent.iterdir()}
    assert left <= {path.name, f"{path.name}.lock", f".{path.name}.tmp"}
