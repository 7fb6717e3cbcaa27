"""JSON and JSON lines."""

from __future__ import annotations

import json

import pytest

from nexus_core.data import LoaderOptions, StreamingDataLoader
from nexus_core.errors import DataError

ROWS = [
    {"question": f'q{i} "[{{,é', "answer": "a" * (i % 400), "more": {"n": [i, 1.5, None, True]}} for i in range(2000)
]


def read(path, text, **options):
    path.write_text(text, encoding="utf-8")
    return list(StreamingDataLoader(path, options=LoaderOptions(**options)))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "shape",
    [
        lambda rows: rows,
        lambda rows: {"data": rows},
        lambda rows: {"version": "1.1", "nested": {"data": [1, [2]]}, "data": rows, "tail": [[], {}]},
    ],
)
def test_lists_and_data_documents(tmp_path, shape, indent):
    records = read(tmp_path / "a.json", json.dumps(shape(ROWS), indent=indent))
    assert [r.fields for r in records] == ROWS
    assert [r.index for r in records] == list(range(2000))


def test_one_object_and_objects_in_a_row(tmp_path):
    assert [r.fields for r in read(tmp_path / "a.json", json.dumps(ROWS[3], indent=2))] == [ROWS[3]]
    lines = "\n".join(map(json.dumps, ROWS))
    assert [r.fields for r in read(tmp_path / "a.json", lines)] == ROWS


def test_an_element_longer_than_many_windows(tmp_path):
    rows = [{"input": "x" * 300_000, "target": "é" * 100_000}, {"input": "y", "target": "z"}]
    assert [r.fields for r in read(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False))] == rows


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[{"input": "a", "target": "b"},\n{"input": "a" "target": "b"}]', r"a\.json:2: not JSON"),
        ('[{"input": "a", "target": "b"}', r"a\.json:1: not JSON"),
        ('[{"input": "a", "target": "b"},\n\n{"input": "a', r"a\.json:3: not JSON: Unterminated string"),
        ('[{"input": "a", "target": "b"},]', r"a\.json:1: not JSON"),
        ('{"data": [{"input": "a", "target": "b"}], }', r"a\.json:1: not JSON"),
        ('{"data": [', r"a\.json:1: not JSON"),
        ('{"data" []}', r"a\.json:1: not JSON"),
        ("hello", r"a\.json:1: not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('[{"input": ' + "9" * 5000 + "}]", "not JSON"),
    ],
)
def test_malformed_json_names_file_and_line(tmp_path, text, place):
    with pytest.raises(DataError, match=place) as caught:
        read(tmp_path / "a.json", text)
    assert len(caught.value.message) < 400


def test_a_malformed_element_is_found_where_it_is_and_not_at_the_end(tmp_path):
    rows = [json.dumps(row) for row in ROWS]
    rows[100] = '{"question": "a", "answer": oops}'
    with pytest.raises(DataError, match=r"a\.json:101: not JSON"):
        read(tmp_path / "a.json", "[" + ",\n".join(rows) + "]")


def test_elements_that_are_not_objects(tmp_path):
    with pytest.raises(DataError, match=r"a\.json:2: a number where an object"):
        read(tmp_path / "a.json", '[{"input": "a", "target": "b"},\n 7]')


def test_a_list_without_elements_is_empty(tmp_path):
    with pytest.raises(DataError, match="no records"):
        read(tmp_path / "a.json", '{"data": []}')


def test_jsonl_names_the_malformed_line(tmp_path):
    lines = [json.dumps(row) for row in ROWS]
    lines[1500] = lines[1500][:-5]
    with pytest.raises(DataError, match=r"a\.jsonl:1501: not JSON"):
        read(tmp_path / "a.jsonl", "\n".join(lines))


def test_jsonl_cut_off_in_its_last_line(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl:2: not JSON"):
        read(tmp_path / "a.jsonl", '{"input": "a", "target": "b"}\n{"input": "a", "tar')


def test_deeply_nested_jsonl(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl:1: not JSON: .*(depth|[Rr]ecursion)"):
        read(tmp_path / "a.jsonl", '{"input": ' + "[" * 100_000 + "]" * 100_000 + "}")


def test_a_nul_byte_in_jsonl(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl:1: not JSON"):
        read(tmp_path / "a.jsonl", '{"input": "a\0", "target": "b"}\n')


def test_a_list_in_a_jsonl_file_says_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl:1: "):
        read(tmp_path / "a.jsonl", json.dumps(ROWS[:2]))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_values_longer_than_the_limit(tmp_path, name):
    with pytest.raises(DataError, match="longer than 1000 bytes"):
        read(tmp_path / name, json.dumps({"input": "x" * 5000, "target": ""}), max_line_bytes=1000)


@pytest.mark.parametrize("shape", ["list", "data"])
def test_a_document_is_one_line_and_longer_than_the_limit_on_lines(tmp_path, shape):
    text = json.dumps(ROWS if shape == "list" else {"data": ROWS})
    assert "\n" not in text
    assert len(text) > 400_000
    assert len(read(tmp_path / "a.json", text, max_line_bytes=10_000)) == 2000


def test_memory_does_not_grow_with_the_document(tmp_path):
    import tracemalloc

    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": ROWS * 4}))
    next(iter(StreamingDataLoader(path)))  # imports
    tracemalloc.start()
    assert sum(1 for _ in StreamingDataLoader(path)) == 8_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2
