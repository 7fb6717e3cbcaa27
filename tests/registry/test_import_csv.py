"""The CSV import: every row once, nothing of the file changed, and what cannot be mapped is named."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_core.errors import RegistryError
from nexus_core.registry import check_registry, load_registry
from nexus_core.registry.import_csv import import_csv, teacher_id
from nexus_core.resources import shared_path

Write = Callable[..., Path]
HEADER = '"Model Name","Parameters","Category","Best Feature"\n'
CLOSE = "ModelName,Parameters,Category,BestFeature\n"
TWO = (
    '"Bob","2B","Language model (dense)","Sums, and more ."\n"acme/Oracle 9","Not specified","Weather","Rain #1: yes"\n'
)


def test_each_row_is_appended_once_and_the_file_stays_as_it_was(write: Write, small: str) -> None:
    path = write(small + "# a last comment\n")
    report = import_csv(write(HEADER + TWO, "t.csv"), path)
    assert (report.added, report.kept) == (("bob", "acme-oracle-9"), ())
    text = path.read_text()
    assert text.startswith(small)
    assert text.endswith("# a last comment\n")
    bob = load_registry(path).teacher("bob")
    assert (bob.name, bob.parameters, bob.category) == ("Bob", "2B", "Language model (dense)")
    assert bob.best_feature == "Sums, and more ."
    assert (bob.path, bob.license) == (None, "unknown: check before profiling")


def test_a_second_import_changes_nothing(write: Write) -> None:
    path, table = write(), write(HEADER + TWO, "t.csv")
    import_csv(table, path)
    before = path.read_bytes()
    report = import_csv(table, path)
    assert (report.added, report.kept) == ((), ("bob", "acme-oracle-9"))
    assert path.read_bytes() == before


def test_hand_edits_stay_and_are_named(write: Write) -> None:
    path, table = write(), write(HEADER + TWO, "t.csv")
    import_csv(table, path)
    edited = path.read_text().replace("parameters: 2B", "parameters: 2.1B  # counted")
    path.write_text(edited)
    report = import_csv(table, path)
    assert path.read_text() == edited
    assert report.edited == ('bob: parameters is "2.1B", the CSV has "2B"',)


def test_what_cannot_be_mapped_is_named_and_flagged(write: Write) -> None:
    path = write()
    report = import_csv(write(HEADER + TWO, "t.csv"), path)
    # The small registry has no `general` or `reasoning`, so a language model cannot be mapped in it either.
    assert report.unmapped == ("bob: Language model (dense)", "acme-oracle-9: Weather")
    row = load_registry(path).teacher("acme-oracle-9")
    assert (row.tower, row.capabilities, row.unmapped) == (None, (), True)
    assert check_registry(path) == []


@pytest.mark.parametrize(
    "header", [HEADER, CLOSE, "\ufeff" + HEADER, HEADER.upper(), "model_name;".replace(";", ",") + HEADER[13:]]
)
def test_both_spellings_of_the_header(write: Write, header: str) -> None:
    report = import_csv(write(header + "Bob,2B,x,y\n", "t.csv"), write())
    assert report.added == ("bob",)


def test_columns_may_stand_in_any_order_and_among_others(write: Write) -> None:
    path = write()
    import_csv(write("Category,Owner,Best Feature,Model Name,Parameters\r\nx,me,y,Bob,2B\r\n", "t.csv"), path)
    bob = load_registry(path).teacher("bob")
    assert (bob.name, bob.parameters, bob.category, bob.best_feature) == ("Bob", "2B", "x", "y")


def test_the_shipped_registry_knows_every_row_of_its_csv(tmp_path: Path, write: Write) -> None:
    """Made from the rows themselves: a CSV of the fourteen adds nothing, and taken away they all come back mapped."""
    shipped = load_registry(shared_path("registry.yaml"))
    rows = [row for row in shipped.teachers.values() if not row.refinement]
    lines = [f'"{r.name}","{r.parameters}","{r.category}","{r.best_feature}"\n' for r in rows]
    table = write(HEADER + "".join(lines), "t.csv")
    known = import_csv(table, shared_path("registry.yaml"), dry_run=True)
    assert (known.added, len(known.kept), known.edited) == ((), 14, ())
    text = shared_path("registry.yaml").read_text("utf-8")
    bare = write(text[: text.index("\nteachers:")] + "\nteachers: {}\n")
    report = import_csv(table, bare)
    assert (list(report.added), report.unmapped) == ([row.id for row in rows], ())
    again = load_registry(bare)
    for row in rows:
        assert (again.teacher(row.id).tower, again.teacher(row.id).role) == (row.tower, row.role)
        assert set(again.teacher(row.id).capabilities) <= set(row.capabilities)


def test_a_refinement_row_refines_what_its_best_feature_names(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    table = write(CLOSE + "Kimi-K2.5-Thinking,1000B,refinement,long_horizon_reasoning\n", "t.csv")
    import_csv(table, path)  # does not exist yet: starts as a copy of the one that ships
    registry = load_registry(path)
    row = registry.teacher("kimi-k2.5-thinking")
    assert (row.refinement, row.mode, row.capabilities) == (True, "blackbox", ("long_horizon_reasoning",))
    assert registry.contract("long_horizon_reasoning", row.id).relative_to == "student_baseline"


def test_a_dry_run_writes_nothing(write: Write, tmp_path: Path) -> None:
    path = write()
    before = path.read_bytes()
    report = import_csv(write(HEADER + TWO, "t.csv"), path, dry_run=True)
    assert path.read_bytes() == before
    assert "bob:\n  name: Bob\n" in report.text
    import_csv(write(HEADER + TWO, "t.csv"), tmp_path / "new.yaml", dry_run=True)
    assert not (tmp_path / "new.yaml").exists()


def test_the_file_keeps_its_line_ends_its_mode_and_its_link(write: Write, small: str, tmp_path: Path) -> None:
    path = write(small.replace("\n", "\r\n").encode(), "real/registry.yaml")
    path.chmod(0o640)
    link = tmp_path / "registry.yaml"
    link.symlink_to(path)
    import_csv(write(HEADER + TWO, "t.csv"), link)
    raw = path.read_bytes()
    assert link.is_symlink()
    assert b"acme-oracle-9" in raw
    assert raw.count(b"\n") == raw.count(b"\r\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(path.parent.iterdir()) == [path], "a temporary file was left"


def test_rows_go_after_the_last_teacher_also_when_a_section_follows(write: Write, small: str) -> None:
    head, teachers = small.split("teachers:\n")
    version, rest = head.split("\n", 1)
    path = write(f"teachers:\n{teachers}    notes: >-\n      two\n      lines\n\n{version}\n{rest}")
    import_csv(write(HEADER + TWO, "t.csv"), path)
    registry = load_registry(path)
    assert list(registry.teachers) == ["ada", "bob", "acme-oracle-9"]
    assert registry.teacher("ada").notes == "two lines"


def test_teachers_in_braces_are_not_rewritten(write: Write, small: str) -> None:
    row = "{ada: {name: Ada, parameters: 1B, category: x, best_feature: x, tower: text, capabilities: [math]}}"
    path = write(small[: small.index("teachers:")] + f"teachers: {row}\n")
    with pytest.raises(RegistryError, match=r"registry.yaml:25: nothing can be added to teachers: it is in braces"):
        import_csv(write(HEADER + TWO, "t.csv"), path)


@pytest.mark.parametrize(
    "value", ["yes", "null", "1:30", "a: b # c", "[x]", "*x", "- x", "'\"", "2024-01-01", "é漢🙂", "0x1F", "~"]
)
def test_any_text_survives_as_text(write: Write, value: str) -> None:
    path = write()
    quoted = value.replace('"', '""')
    import_csv(write(HEADER + f'"Bob","{quoted}","{quoted}","{quoted}"\n', "t.csv"), path)
    bob = load_registry(path).teacher("bob")
    assert (bob.parameters, bob.category, bob.best_feature) == (value, value, value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "t.csv:1: the file is empty"),
        ("\n\n", "t.csv:1: the file is empty"),
        (HEADER, "t.csv:1: a header and no rows"),
        ("Model Name,Parameters,Category\nBob,2B,x\n", 't.csv:1: no column "Best Feature"'),
        ("Parameters,Category,Best Feature\n2B,x,y\n", 't.csv:1: no column "Model Name"'),
        (
            "Model Name,ModelName,Parameters,Category,Best Feature\na,b,c,d,e\n",
            't.csv:1: the column "Model Name" appears twice',
        ),
        (HEADER + "Bob,2B,x\n", "t.csv:2: 3 fields, where the header has 4"),
        (HEADER + "\nBob,2B,x,y,z\n", "t.csv:3: 5 fields, where the header has 4"),
        (HEADER + "Bob,2B,x,y\nbob,3B,x,y\n", 't.csv:3: "bob" is already on line 2'),
        (HEADER + "a b,2B,x,y\na_b,3B,x,y\n", 't.csv:3: "a_b" gives the id a-b, and so does line 2'),
        (HEADER + ",2B,x,y\n", "t.csv:2: the field name is empty"),
        (HEADER + "漢,2B,x,y\n", 't.csv:2: no id can be made of "漢"'),
        (HEADER + "x" * 500 + ",2B,x,y\n", "t.csv:2: no id can be made of"),
        (HEADER + f"Bob,2B,{'x' * 5000},y\n", "t.csv:2: the field category has 5000 characters"),
        (HEADER + '"Bob,2B,x,y\n', "t.csv:2: not CSV"),
        (HEADER + '"Bob"2,2B,x,y\n', "t.csv:2: not CSV"),
        (b"PK\x03\x04\xff\xfe", "t.csv:1: not UTF-8 text"),
        (HEADER.encode() + b"Bob,\x00,x,y\n", "t.csv:2: a control character (U+0000)"),
        (b"a" * (4 * 1024 * 1024 + 1), "t.csv:1: larger than 4 MB"),
    ],
)
def test_a_malformed_csv_is_one_line_and_changes_nothing(write: Write, content: str | bytes, message: str) -> None:
    path = write()
    before = path.read_bytes()
    with pytest.raises(RegistryError) as error:
        import_csv(write(content, "t.csv"), path)
    assert message in error.value.message
    assert "\n" not in error.value.message
    assert error.value.hint
    assert path.read_bytes() == before


def test_an_unsound_registry_is_not_added_to(write: Write, small: str) -> None:
    path = write(small.replace("tower: text", "tower: txt", 1))
    with pytest.raises(RegistryError, match='unknown tower "txt"'):
        import_csv(write(HEADER + TWO, "t.csv"), path)


def test_an_absent_csv_is_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"gone\.csv:1: cannot be read \(No such file"):
        import_csv(tmp_path / "gone.csv", write())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("zai-org/GLM-4.7-Flash", "zai-org-glm-4.7-flash"), ("A  b__C", "a-b-c"), (".x.", "x"), ("../../etc", "etc")],
)
def test_ids_are_made_of_names(name: str, expected: str) -> None:
    assert teacher_id(name) == expected
