"""Which keys are input and target."""

from __future__ import annotations

import pytest

from nexus_core.data import LoaderOptions, StreamingDataLoader
from nexus_core.errors import DataError

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def read(write_jsonl, *rows, **options):
    return list(StreamingDataLoader(write_jsonl("rows.jsonl", rows), options=LoaderOptions(**options)))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"input": "a", "target": "b"}, ("a", "b")),
        ({"question": "a", "answer": "b", "id": 3}, ("a", "b")),
        ({"prompt": "a", "target": "b"}, ("a", "b")),
        ({"prompt": "a", "response": "b"}, ("a", "b")),
        ({"instruction": "a", "output": "b"}, ("a", "b")),
        ({"instruction": "a", "input": "", "output": "b"}, ("a", "b")),
        ({"instruction": "a", "input": "text", "output": "b"}, ("a\n\ntext", "b")),
        ({"messages": [USER, ANSWER]}, ("hi", "hello")),
        (
            {"messages": [{"role": "system", "content": "be kind"}, USER, ANSWER]},
            ("system: be kind\n\nuser: hi", "hello"),
        ),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ("a", "b")),
        ({"question": "a", "answer": 4}, ("a", "4")),
        ({"question": "a", "answer": ["x", "é"]}, ("a", '["x", "é"]')),
        ({"input": "first", "target": "t", "question": "q", "answer": "a"}, ("first", "t")),
    ],
)
def test_keys_understood(write_jsonl, row, expected):
    for n in (1, 3):  # three alike take the fast way
        records = read(write_jsonl, *[row] * n)
        assert [(r.input, r.target) for r in records] == [expected] * n
        assert all(r.fields == row for r in records)


def test_rows_of_different_layouts_in_one_file(write_jsonl):
    rows = [{"question": "a", "answer": "b"}, {"prompt": "c", "response": "d"}, {"answer": "f", "question": "e"}]
    assert [r[:2] for r in read(write_jsonl, *rows)] == [("a", "b"), ("c", "d"), ("e", "f")]


def test_the_layout_of_a_row_does_not_depend_on_its_neighbours(write_jsonl):
    rows = [{"question": "a", "answer": "b"}, {"input": "i", "target": "t", "question": "q", "answer": "a"}]
    assert read(write_jsonl, *rows)[1][:2] == ("i", "t")
    assert read(write_jsonl, *reversed(rows))[0][:2] == ("i", "t")


def test_unknown_keys_are_shown_with_file_and_line(write_jsonl):
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no input and target.*keys found: text, label") as caught:
        read(write_jsonl, {"input": "a", "target": "b"}, {"text": "x", "label": 1})
    assert "question/answer" in caught.value.hint


def test_blank_lines_do_not_shift_the_line_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"input":"a","target":"b"}\n\n  \r\n{"text":"x"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:4: "):
        list(StreamingDataLoader(path))


def test_keys_of_ones_own(write_jsonl):
    row = {"problem": "p", "solution": "s", "input": "no", "target": "no"}
    assert read(write_jsonl, row, keys=("problem", "solution"))[0][:2] == ("p", "s")
    with pytest.raises(DataError, match="no field solution in this row; keys found: problem"):
        read(write_jsonl, {"problem": "p"}, keys=("problem", "solution"))


def test_a_field_that_is_input_and_target_is_named_once(write_jsonl):
    with pytest.raises(DataError, match="no field function in this row"):
        read(write_jsonl, {"problem": "p"}, keys=("function", "function"))


def test_the_hint_can_be_followed_without_python(write_jsonl):
    with pytest.raises(DataError) as caught:
        read(write_jsonl, {"frage": "1?", "antwort": "1"})
    assert "rename the columns to input and target" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"input": None, "target": "x"}, "input is null"),
        ([1, 2], "a list where an object"),
        ("text", "a string where an object"),
        (3, "a number where an object"),
        ({}, "keys found: none"),
        ({"messages": [USER]}, "a chat of 1 message"),
        ({"messages": [ANSWER, USER]}, "the last message of the chat is by 'user'"),
        ({"messages": [{"who": "me"}, ANSWER]}, "list of objects with role and content"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "content is null"),
    ],
)
def test_bad_rows_are_refused_or_skipped_and_counted(write_jsonl, row, what):
    good = {"input": "a", "target": "b"}
    with pytest.raises(DataError, match=what):
        read(write_jsonl, good, row)
    path = write_jsonl("rows.jsonl", [good, row, good])
    loader = StreamingDataLoader(path, options=LoaderOptions(bad_rows="skip"))
    assert [r.index for r in loader] == [0, 2]
    assert loader.skipped == {"bad row": 1}


def test_many_keys_are_cut_short_in_the_message(write_jsonl):
    with pytest.raises(DataError) as caught:
        read(write_jsonl, {f"column{i}": i for i in range(500)})
    assert "column19, ..." in caught.value.message
    assert len(caught.value.message) < 500
    with pytest.raises(DataError) as caught:
        read(write_jsonl, {"k" * 100_000: 1})
    assert len(caught.value.message) < 500


def test_only_bad_rows_tell_what_was_wrong_with_the_first(write_jsonl):
    with pytest.raises(DataError, match=r"left out: 2 bad row.*rows\.jsonl:1: no input and target.*keys found: text"):
        read(write_jsonl, {"text": "a"}, {"text": "b"}, bad_rows="skip")
