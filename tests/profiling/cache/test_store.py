"""Units on disk: whole or absent, the same bytes each time, read in a seeded order with bounded memory."""

from __future__ import annotations

import json
import os
import shutil
import signal as signals
import subprocess
import sys
import textwrap
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nexus_core.errors import DataError, UsageError
from nexus_core.profiling.cache import (
    Coefficients,
    LogitCodec,
    SignalCache,
    TailAverage,
    TeacherSignal,
    UnitKey,
    byte_offsets,
)

VOCABULARY, WIDTH = 300, 32


def make_signal(i: int, codec: LogitCodec, tokens: int = 5) -> TeacherSignal:
    generator = np.random.default_rng(i)
    output = "ö" * tokens
    coefficients = {
        "layers.1": Coefficients.of(generator.normal(size=(tokens, 6)), WIDTH, "int8"),
        "layers.2": Coefficients.of(generator.normal(size=(tokens, 4)), WIDTH),
        "layers.3": Coefficients.of(generator.normal(size=(1, 3)), WIDTH, pooled=True),
    }
    return TeacherSignal(
        digest=f"{i:064x}",
        prompt=f"sample {i}: €",
        output=output,
        token_ids=generator.integers(0, VOCABULARY, tokens).astype(np.int32),
        offsets=byte_offsets(output, [(t, t + 1) for t in range(tokens)]),
        logits=codec.encode(3 * generator.normal(size=(tokens, VOCABULARY))),
        codec=codec,
        coefficients=coefficients,
        arrays={"mel_frames": generator.normal(size=(tokens, 8)).astype(np.float16)} if i % 2 else {},
    )


def make_codec() -> LogitCodec:
    average = TailAverage(VOCABULARY)
    average.add(LogitCodec(VOCABULARY).log_probs(np.random.default_rng(9).normal(size=(50, VOCABULARY))))
    return LogitCodec(VOCABULARY, average.shape())


def key_of(chunk: list[TeacherSignal], **changes) -> UnitKey:
    fields = {"teacher": "zoo", "weights": "a" * 64, "capability": "math", "split": "train", "settings": {"k": 6}}
    return UnitKey(**fields | {"samples": tuple(signal.digest for signal in chunk)} | changes)


def fill(cache: SignalCache, units: int = 3, each: int = 4, tokens: int = 5, **changes) -> list[UnitKey]:
    codec = make_codec()
    keys = []
    for unit in range(units):
        chunk = [make_signal(unit * each + i, codec, tokens + i % 2) for i in range(each)]
        keys.append(key_of(chunk, **changes))
        cache.write(keys[-1], chunk)
    return keys


def assert_same(a: TeacherSignal, b: TeacherSignal) -> None:
    assert (a.digest, a.prompt, a.output) == (b.digest, b.prompt, b.output)
    pairs = [(a.token_ids, b.token_ids), (a.offsets, b.offsets)]
    pairs += [(a.logits.data, b.logits.data), (a.logits.lengths, b.logits.lengths)]
    assert list(a.coefficients) == list(b.coefficients) and list(a.arrays) == list(b.arrays)
    pairs += [(a.arrays[name], b.arrays[name]) for name in a.arrays]
    for block, rows in a.coefficients.items():
        other = b.coefficients[block]
        assert (rows.dim, rows.pooled, rows.reason) == (other.dim, other.pooled, other.reason)
        pairs += [(rows.values, other.values), (rows.array(), other.array())]
    for left, right in pairs:
        assert left.dtype == right.dtype and np.array_equal(left, right)
    assert np.array_equal(a.top_k().full(), b.top_k().full())


def test_signals_come_back_as_they_were(tmp_path):
    codec = make_codec()
    written = [make_signal(i, codec, tokens=3 + i) for i in range(5)]
    SignalCache(tmp_path).write(key_of(written), written)
    read = {signal.digest: signal for signal in SignalCache(tmp_path).iterate()}
    assert len(read) == 5
    for signal in written:
        assert_same(signal, read[signal.digest])


def test_a_teacher_without_logits_and_a_tail_without_shape(tmp_path):
    bare = [replace(make_signal(i, make_codec()), logits=None, codec=None, coefficients={}) for i in range(2)]
    codec = LogitCodec(VOCABULARY)
    plain = [make_signal(i, codec) for i in range(2)]
    SignalCache(tmp_path / "a").write(key_of(bare), bare)
    SignalCache(tmp_path / "b").write(key_of(plain), plain)
    assert all(signal.top_k() is None for signal in SignalCache(tmp_path / "a").iterate())
    assert all(signal.codec.shape is None for signal in SignalCache(tmp_path / "b").iterate())
    assert SignalCache(tmp_path / "a").verify() == SignalCache(tmp_path / "b").verify() == []


def test_the_same_signals_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        fill(SignalCache(tmp_path / name))
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert contents[0] == contents[1] and len(contents[0]) == 3 * 2 + 1


@pytest.mark.parametrize(
    "change",
    [{"weights": "b" * 64}, {"capability": "code"}, {"split": "verify"}, {"settings": {"k": 7}}, {"samples": ("x",)}],
)
def test_everything_that_matters_is_in_the_name(change):
    key = key_of([])
    assert replace(key, **change).digest != key.digest
    assert replace(key, settings={"k": 6}).digest == key.digest


def test_settings_that_json_cannot_hold_are_refused():
    with pytest.raises(UsageError, match="not JSON"):
        _ = key_of([], settings={"path": Path("x")}).digest


def test_a_finished_unit_is_known_to_a_later_run(tmp_path):
    keys = fill(SignalCache(tmp_path))
    assert all(SignalCache(tmp_path).has(key) for key in keys)
    assert not SignalCache(tmp_path).has(replace(keys[0], settings={"k": 7}))
    path = tmp_path / f"{keys[0].digest}.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="missing or cut short"):
        SignalCache(tmp_path).has(keys[0])


def test_the_order_depends_on_the_seed_alone(tmp_path):
    fill(SignalCache(tmp_path), units=6)
    orders = [[s.digest for s in SignalCache(tmp_path).iterate(seed=seed, open_units=3)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == [f"{i:064x}" for i in range(24)]
    first_unit = {digest // 4 for digest in (int(name, 16) for name in orders[0][:6])}
    assert len(first_unit) > 1  # samples of several units are mixed


def test_iterating_needs_the_memory_of_the_open_units_only(tmp_path):
    cache = SignalCache(tmp_path)
    long = make_signal(0, make_codec(), tokens=1500)
    peaks = {}
    for units in (4, 24):
        for unit in range(units):
            chunk = [replace(long, digest=f"{unit * 2 + i:064x}") for i in range(2)]
            cache.write(key_of(chunk), chunk)
        next(cache.iterate())  # what is imported on the way is not counted
        tracemalloc.start()
        assert sum(len(signal.token_ids) for signal in cache.iterate(open_units=2)) == units * 2 * 1500
        peaks[units] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    unit_size = max(path.stat().st_size for path in tmp_path.glob("*.npz"))
    assert peaks[24] < 1.2 * peaks[4]
    assert peaks[24] < 6 * unit_size  # two units open; while one is read, its bytes twice beside its arrays


def test_a_unit_of_the_wrong_samples_is_refused(tmp_path):
    codec = make_codec()
    chunk = [make_signal(i, codec) for i in range(3)]
    for wrong in (chunk[:2], chunk[::-1], []):
        with pytest.raises(UsageError, match="unit of 3 samples"):
            SignalCache(tmp_path).write(key_of(chunk), wrong)
    with pytest.raises(UsageError, match="unit of 0 samples"):
        SignalCache(tmp_path).write(key_of([]), [])
    assert not list(tmp_path.iterdir())


def test_signals_that_do_not_belong_together_are_refused(tmp_path):
    codec = make_codec()
    a, b = make_signal(0, codec), make_signal(1, codec)
    others = {
        "differ in their blocks": replace(b, coefficients={}),
        "some have none": replace(b, logits=None, codec=None),
        "different codecs": make_signal(1, LogitCodec(VOCABULARY)),
    }
    for said, other in others.items():
        with pytest.raises(DataError, match=said):
            SignalCache(tmp_path).write(key_of([a, other]), [a, other])


def test_another_teacher_of_the_same_name_is_refused(tmp_path):
    fill(SignalCache(tmp_path))
    mine = SignalCache(tmp_path, {"zoo": "c" * 64})
    for attempt in (lambda: list(mine.iterate()), lambda: mine.write(key_of([]), [])):
        with pytest.raises(DataError, match="another teacher called zoo: its weights are aaaaaaaaaaaa, expected ccccc"):
            attempt()
    assert "another teacher called zoo" in mine.verify()[0]
    fill(SignalCache(tmp_path), units=1, weights="b" * 64)
    with pytest.raises(DataError, match="two different teachers called zoo"):
        list(SignalCache(tmp_path).iterate())


def test_selection_and_sizes(tmp_path):
    cache = SignalCache(tmp_path)
    fill(cache, units=2)
    fill(cache, units=1, capability="code", teacher="other", weights="e" * 64)
    assert len(list(cache.iterate(capability="code"))) == 4 and len(list(cache.iterate(teacher="zoo"))) == 8
    sizes = cache.sizes()
    row = sizes["zoo", "math"]
    assert row["units"] == 2 and row["samples"] == 8 and row["tokens"] == 2 * (5 + 6 + 5 + 6)
    assert 0 < row["logit_bytes"] <= 114 * row["tokens"] and row["tail_bytes"] == 2 * (VOCABULARY + 8)
    assert row["coefficient_bytes"] == row["tokens"] * (6 + 2 * 4) + 8 * (6 * 4 + 2 * 3)
    assert row["bytes"] + sizes["other", "code"]["bytes"] == sum(p.stat().st_size for p in tmp_path.glob("*.npz"))


def test_verify_names_each_problem(tmp_path):
    keys = fill(SignalCache(tmp_path), units=6)
    paths = [tmp_path / f"{key.digest}.npz" for key in keys]
    assert SignalCache(tmp_path).verify() == []
    content = bytearray(paths[0].read_bytes())
    content[len(content) // 2] ^= 1
    paths[0].write_bytes(content)
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    paths[2].unlink()
    paths[3].with_suffix(".json").unlink()
    shutil.copy(paths[4], paths[5])
    (tmp_path / "notes.txt").write_text("hello")
    problems = SignalCache(tmp_path).verify()
    for path, said in [
        (paths[0], "is corrupt"),
        (paths[1], "is corrupt"),
        (paths[2], "cannot be read"),
        (paths[3], "no manifest entry"),
        (paths[5], "is corrupt"),
        (tmp_path / "notes.txt", "foreign"),
    ]:
        assert sum(str(path) in problem and said in problem for problem in problems) == 1
    assert len(problems) == 6
    with pytest.raises(DataError):
        list(SignalCache(tmp_path).iterate())


def test_an_entry_under_another_name_is_refused(tmp_path):
    keys = fill(SignalCache(tmp_path), units=2)
    first, second = (tmp_path / f"{key.digest}.json" for key in keys)
    shutil.copy(first, second)
    with pytest.raises(DataError, match="entry of another unit"):
        SignalCache(tmp_path).entries()
    # Also when the file goes with it and the entry was edited to fit: the unit says its own name.
    row = json.loads(first.read_text()) | {"samples": list(keys[1].samples)}
    second.write_text(json.dumps(row))
    shutil.copy(first.with_suffix(".npz"), second.with_suffix(".npz"))
    with pytest.raises(DataError, match="holds another unit"):
        list(SignalCache(tmp_path).iterate())


def write_units(cache: SignalCache, units: int) -> None:
    codec = make_codec()
    for unit in range(units):
        chunk = [make_signal(unit * 4 + i, codec, 100) for i in range(4)]
        if not cache.has(key_of(chunk)):
            cache.write(key_of(chunk), chunk)


WRITER = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("signals_of_the_test", sys.argv[1])
test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test)
test.write_units(test.SignalCache(Path(sys.argv[2])), int(sys.argv[3]))
"""


def _writer(directory: Path, units: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), __file__, str(directory), str(units)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_killed_writer_leaves_nothing_half_and_a_rerun_finishes(tmp_path):
    units = 12
    for finished in (1, 4):  # killed in the middle of what follows the first unit, and the fourth
        with _writer(tmp_path / "killed", units) as process:
            while len(list((tmp_path / "killed").glob("*.json"))) < finished and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signals.SIGKILL)
        assert process.returncode == -signals.SIGKILL
        problems = SignalCache(tmp_path / "killed").verify()
        assert all("no manifest entry: its writer was stopped" in problem for problem in problems)
        assert len(problems) <= 1
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.json")}
    assert 0 < len(before) < units
    write_units(SignalCache(tmp_path / "killed"), units)
    assert SignalCache(tmp_path / "killed").verify() == []
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.json")}
    assert len(after) == units and before.items() <= after.items()  # finished units were not written again
    write_units(SignalCache(tmp_path / "fresh"), units)
    for path in (tmp_path / "fresh").glob("*.npz"):
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes()


def test_only_coefficients_reach_the_disk(tmp_path):
    """Every array of every file is looked at: none is as wide as the block that the coefficients come from."""
    fill(SignalCache(tmp_path))
    seen = 0
    for path in tmp_path.glob("*.npz"):
        with np.load(path, allow_pickle=False) as unit:
            meta = json.loads(unit["meta"].tobytes())
            for place, block in enumerate(meta["blocks"]):
                assert unit[f"values_{place}"].shape[1] == block["k"] < block["dim"] == WIDTH
                seen += 1
            floats = [name for name in unit.files if unit[name].dtype.kind == "f"]
            assert all(name.startswith(("values_", "scales_", "array_")) for name in floats)
    assert seen == 9
