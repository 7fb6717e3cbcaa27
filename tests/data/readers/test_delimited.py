"""CSV and TSV."""

from __future__ import annotations

import csv
import io

import pytest

from nexus_core.data import LoaderOptions, StreamingDataLoader
from nexus_core.errors import DataError


def read(tmp_path, text, name="a.csv", **options):
    (tmp_path / name).write_bytes(text.encode())
    return list(StreamingDataLoader(tmp_path / name, options=LoaderOptions(**options)))


def test_quoted_commas_and_line_breaks(tmp_path):
    rows = [{"question": f'a, "b"\n{i}', "answer": "x" * i} for i in range(3000)]
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ["question", "answer"])
    writer.writeheader()
    writer.writerows(rows)
    assert [dict(r.fields) for r in read(tmp_path, buffer.getvalue())] == rows


def test_cells_stay_text(tmp_path):
    record = read(tmp_path, "input,target,n\n007,1e3,NA\n")[0]
    assert record.fields == {"input": "007", "target": "1e3", "n": "NA"}


def test_a_cell_longer_than_the_library_allows(tmp_path):
    assert len(read(tmp_path, f'input,target\n"{"x" * 500_000}",y\n')[0].input) == 500_000


def test_tsv_takes_quotes_as_they_are(tmp_path):
    records = read(tmp_path, 'input\ttarget\n"unbalanced\tx, y\n5" disk\t\n', "a.tsv")
    assert [r[:2] for r in records] == [('"unbalanced', "x, y"), ('5" disk', "")]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("input,target\na,b\nc\n", r"a\.csv:3: 1 cells where the header has 2"),
        ("input,target\na,b,c\n", r"a\.csv:2: 3 cells where the header has 2"),
        ("input,target,input\na,b,c\n", r"a\.csv:1: the header names 'input' twice"),
        ("input,target\na\0,b\n", r"a\.csv:2: a NUL character"),
        ('input,target\n"a,b\nc,d\n', r"a\.csv:\d+: not a valid table"),
        ('input,target\n"a"x,b\n', r"a\.csv:2: not a valid table"),
        ("text,label\na,b\n", r"a\.csv:2: no input and target.*keys found: text, label"),
        ("input,target\n", "no records"),
    ],
)
def test_bad_tables(tmp_path, text, what):
    with pytest.raises(DataError, match=what) as caught:
        read(tmp_path, text)
    assert caught.value.hint


def test_an_unclosed_quote_is_bounded(tmp_path):
    text = 'input,target\n"never closed\n' + "row,row\n" * 50_000
    with pytest.raises(DataError, match=r"a\.csv:28572: a row of more than 200000 bytes") as caught:
        read(tmp_path, text * 2, max_line_bytes=200_000)
    assert "quotes" in caught.value.hint
