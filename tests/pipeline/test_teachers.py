"""`nexus teacher`: a row comes or gets a fate, all else in the file stays as it was, and no file of a teacher moves."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import nexus_teacher_zoo
import pytest
from click.testing import CliRunner, Result

from nexus_core.cli.main import cli
from nexus_core.errors import ModelError, NexusError, RegistryError, StateError, UsageError
from nexus_core.lock import held
from nexus_core.pipeline.teachers import NewTeacher, RegistryFile
from nexus_core.plugins import Plugins
from nexus_core.registry import Fate, load_registry, resolve_path
from nexus_core.registry.licence import refuse_use

ZOO = Path(nexus_teacher_zoo.__file__).parent / "weights"
TEXT = """\
version: 1  # mine
defaults:
  retain_fraction: {higher: 0.97, lower: 1.03}
  rank_caps: {text: 512}
  tiers:
    1: {name: core, rank_cap: text}
  thresholds:
    points: {non_negotiable: 0.02, recoverable: 0.005}
towers:
  text: {latent_max: 64, description: language}
capabilities:
  general: &none
  reasoning:
    tier: 1
    tower: text
    description: sums
    thresholds: points
    contract: {benchmark: pack, metric: exact, direction: higher}
  code:
    tier: 1
    tower: text
    description: functions
    thresholds: points
    contract: {benchmark: pack, metric: exact, direction: higher}
teachers:
  ada:
    name: Ada  # a comment that must stay
    parameters: 1B
    category: Language model
    best_feature: sums
    tower: text
    capabilities: [reasoning]
    path: null
    notes: >-
      Two lines
      of notes.

  # about bob
  bob: {name: Bob, parameters: 1B, category: x, best_feature: x, tower: text, capabilities: [reasoning, code]}
# the end
""".replace("  general: &none\n", "")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Mine, in the directory that one is in, without any plugin's rows."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "registry.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A directory that the transformers plugin knows, and no card of the zoo in it."""
    return Path(shutil.copytree(ZOO / "reasoning", tmp_path / "models/sums", ignore=shutil.ignore_patterns("card*")))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["teacher", *map(str, arguments)], catch_exceptions=False)


def added_lines(path: Path) -> list[str]:
    """What the file has more than before; that nothing else has changed is what fails here."""
    left = TEXT.splitlines()
    more = []
    for line in path.read_text().splitlines():
        if left and line == left[0]:
            left.pop(0)
        else:
            more.append(line)
    assert left == []
    return more


# --- add ----------------------------------------------------------------------------------------------------------------


def test_a_row_is_appended_and_nothing_else_is_touched(registry: Path, checkpoint: Path) -> None:
    result = call("add", "models/sums", "--capability", "reasoning", "--license", "MIT")
    assert "detected: transformers (config.json: model_type llama), says" in result.output
    assert "next: nexus profile --teacher sums --capability reasoning" in result.output
    assert added_lines(registry) == [
        "  sums:",
        "    name: sums",
        "    parameters: 943K",
        "    category: Language model",
        "    best_feature: Not specified",
        "    tower: text",
        "    capabilities: [reasoning]",
        "    path: models/sums",
        "    license: MIT",
    ]
    assert resolve_path(load_registry(registry).teacher("sums")).path == checkpoint


def test_what_is_not_said_is_named_as_what_comes_next(registry: Path, checkpoint: Path) -> None:
    result = call("add", "models/sums", "--capability", "reasoning", "--id", "s", "--name", "Sums")
    assert "next: read its licence, and write its name as `license:` at registry.yaml:39" in result.output
    assert load_registry(registry).teacher("s").name == "Sums"


def test_a_dry_run_writes_nothing(registry: Path, checkpoint: Path) -> None:
    assert "would add sums" in call("add", "models/sums", "--capability", "code", "--dry-run").output
    assert registry.read_text() == TEXT


def test_a_path_elsewhere_is_absolute(registry: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    shutil.move(registry, tmp_path / "below/registry.yaml")
    call("add", checkpoint, "--capability", "code", "--registry", "below/registry.yaml")
    row = load_registry(tmp_path / "below/registry.yaml").teacher("sums")
    assert row.path == str(checkpoint)


@pytest.mark.parametrize("name", ["~", "~x", "package:x", "1e3", "no", "a: b # c", "'"])
def test_a_directory_of_any_name_is_found_again(registry: Path, checkpoint: Path, tmp_path: Path, name: str) -> None:
    checkpoint.rename(tmp_path / name)
    call("add", f"./{name}", "--id", "odd", "--name", "Odd", "--capability", "code")
    assert resolve_path(load_registry(registry).teacher("odd")).path == tmp_path / name


def test_one_that_is_elsewhere_waits_for_its_files(registry: Path) -> None:
    result = call("add", "--source", "acme/Sums-1B", "--category", "Language model", "--capability", "code")
    row = load_registry(registry).teacher("acme-sums-1b")
    assert (row.source, row.path, row.tower, row.parameters) == ("acme/Sums-1B", None, "text", "Not specified")
    assert "next: get acme/Sums-1B, and set `path:` at registry.yaml:39" in result.output


def test_a_registry_that_is_not_there_starts_as_the_one_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("add", "--source", "acme/Sums-1B", "--capability", "math")
    text = (tmp_path / "registry.yaml").read_text()
    assert text.startswith("# What Nexus promises") and "acme-sums-1b:" in text


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (["add", "acme/Sums"], ModelError, "acme/Sums: no such file or directory"),
        (["add"], UsageError, "no teacher is named"),
        (["add", "--source", "acme/Sums"], UsageError, "is not here to be looked at"),
        (["add", "--source", "a/x", "--id", "ada", "--capability", "code"], RegistryError, "it has the id ada"),
        (
            ["add", "--source", "a/x", "--name", "BOB", "--id", "b", "--capability", "code"],
            RegistryError,
            "it has the name Bob",
        ),
        (["add", "--source", "a/x", "--capability", "cod"], RegistryError, 'did you mean "code"'),
        (["add", "--source", "a/x", "--capability", "code", "--tower", "txt"], RegistryError, 'did you mean "text"'),
        (["add", "--source", "a/x", "--category", "Weather"], UsageError, 'what a "Weather" is for is not known'),
        (["add", "--source", "a/x", "--capability", "code", "--name", "x" * 3000], UsageError, "cannot be an id"),
        (["add", "nothing"], ModelError, "nothing: no such file"),
    ],
)
def test_what_is_refused_changes_nothing(registry: Path, given: list[str], error: type, says: str) -> None:
    with pytest.raises(error) as caught:
        call(*given)
    assert says in caught.value.message and caught.value.hint
    assert registry.read_text() == TEXT


def test_the_same_files_or_source_are_one_teacher(registry: Path, checkpoint: Path) -> None:
    call("add", checkpoint, "--capability", "code", "--source", "acme/Sums-1B")
    for given in (["models/../models/sums", "--name", "Other"], ["--source", "ACME/sums-1b", "--name", "Other"]):
        with pytest.raises(RegistryError, match="is in the registry already"):
            call("add", *given, "--capability", "code")


def test_a_directory_that_no_plugin_knows_is_refused(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("x")
    with pytest.raises(ModelError, match="no teacher plugin recognises this"):
        call("add", "thesis", "--capability", "code")


# --- drop and merge -----------------------------------------------------------------------------------------------------


def test_a_drop_is_one_line_with_its_reason(registry: Path) -> None:
    result = call("drop", "ada", "--reason", 'fails: "all" of it\n# really')
    assert added_lines(registry) == ["    fate: {action: drop, reason: 'fails: \"all\" of it # really'}"]
    assert str(load_registry(registry).teacher("ada").fate) == 'dropped: fails: "all" of it # really'
    assert "nobody is left" not in result.output  # bob is


def test_what_nobody_teaches_any_more_is_said(registry: Path) -> None:
    registry.write_text(TEXT.replace("  code:\n", "  long_context:\n").replace(", code]", ", long_context]"))
    assert "nobody" not in call("drop", "zoo-long_context", "--reason", "x").output  # bob is left
    registry.write_text(TEXT.replace("  code:\n", "  long_context:\n").replace(", code]", "]"))
    assert "nobody is left to teach long_context" in call("drop", "zoo-long_context", "--reason", "x").output


def test_a_merge_names_the_other(registry: Path) -> None:
    call("merge", "ada", "--into", "bob", "--reason", "the same family")
    assert load_registry(registry).teacher("ada").fate == Fate("merge", "the same family", "bob")


def test_a_row_of_a_plugin_can_be_merged_into_and_every_command_knows_it(registry: Path, tmp_path: Path) -> None:
    call("merge", "ada", "--into", "zoo-reasoning", "--reason", "the same family")
    (tmp_path / "more.csv").write_text("ModelName,Parameters,Category,BestFeature\nEve,2B,Language model,x\n")
    for arguments in (["check", "registry.yaml"], ["import", "more.csv"], ["list"]):
        result = CliRunner().invoke(cli, ["registry", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert "merged into zoo-reasoning" in result.output
    registry.write_text(registry.read_text().replace("into: zoo-reasoning", "into: zoo-reasonin"))
    result = CliRunner().invoke(cli, ["registry", "check", "registry.yaml"])
    assert result.exit_code == 1 and 'unknown teacher "zoo-reasonin"; did you mean "zoo-reasoning"?' in result.output


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["drop", "ad", "--reason", "x"], 'did you mean "ada"'),
        (["drop", "../ada", "--reason", "x"], 'no teacher "../ada"'),
        (["drop", "ada", "--reason", " \n "], "no reason is given"),
        (["merge", "ada", "--into", "ada", "--reason", "x"], "merged into itself"),
        (["merge", "ada", "--into", "eve", "--reason", "x"], 'unknown teacher "eve"'),
        (["drop", "bob", "--reason", "x"], "nothing can be added to teachers.bob: it is in braces"),
        (["drop", "ada", "--reason", "x" * 3000], "teachers.ada.fate.reason"),
    ],
)
def test_what_makes_no_sense_is_refused(registry: Path, given: list[str], says: str) -> None:
    with pytest.raises(NexusError) as caught:
        call(*given)
    assert says in caught.value.message and caught.value.hint
    assert registry.read_text() == TEXT


def test_nothing_that_is_carried_gets_lost_in_a_merge(registry: Path) -> None:
    registry.write_text(
        TEXT.replace("capabilities: [reasoning]\n", "capabilities: [reasoning, code]\n").replace(
            "capabilities: [reasoning, code]}", "capabilities: [reasoning]}"
        )
    )
    with pytest.raises(RegistryError, match="merged into bob, which does not carry code"):
        call("merge", "ada", "--into", "bob", "--reason", "x")


def test_a_second_fate_is_refused_and_so_is_the_teacher_as_a_new_one(registry: Path) -> None:
    call("drop", "ada", "--reason", "slow")
    with pytest.raises(RegistryError, match=r"ada is dropped: slow \(registry.yaml:25\)"):
        call("merge", "ada", "--into", "bob", "--reason", "x")
    with pytest.raises(RegistryError) as caught:
        call("add", "--source", "acme/Ada", "--id", "ada", "--capability", "code")
    assert "take `fate:` out of its row" in caught.value.hint


def test_a_row_of_a_plugin_is_set_aside_in_ones_own_file(registry: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "plugin/registry.yaml"
    fragment.parent.mkdir()
    row = (
        "name: Cyd\n    parameters: 1B\n    category: x\n    best_feature: x\n    tower: text\n    capabilities: [code]"
    )
    fragment.write_text(f"teachers:\n  cyd:\n    {row}\n    path: weights\n")
    before = fragment.read_text()
    file = RegistryFile(registry, [("cyd", fragment)])
    edit = file.set_aside("cyd", Fate("drop", "too large"))
    assert edit.row.path == str(tmp_path / "plugin/weights") and edit.row.fate == Fate("drop", "too large")
    assert load_registry(registry, [("cyd", fragment)]).teacher("cyd").origin.owner == "registry"
    assert fragment.read_text() == before


def test_a_teacher_that_was_set_aside_is_not_used(registry: Path) -> None:
    call("drop", "ada", "--reason", "slow")
    with pytest.raises(NexusError, match=r"teacher ada is not profiled: it is dropped: slow"):
        refuse_use(load_registry(registry).teacher("ada"))


def test_the_list_says_what_became_of_it(registry: Path) -> None:
    call("merge", "ada", "--into", "bob", "--reason", "kin")
    listed = json.loads(CliRunner().invoke(cli, ["registry", "list", "--json"], catch_exceptions=False).stdout)
    ada = next(row for row in listed["teachers"] if row["id"] == "ada")
    assert (ada["state"], ada["fate"]) == (
        "merged into bob: kin",
        {"action": "merge", "reason": "kin", "into": "bob"},
    )
    reasoning = next(row for row in listed["capabilities"] if row["id"] == "reasoning")
    assert "ada" not in reasoning["teachers"] and "bob" in reasoning["teachers"]


# --- whole or not at all, one at a time ---------------------------------------------------------------------------------


def test_two_at_once_do_not_undo_each_other(registry: Path) -> None:
    with held(registry.parent), pytest.raises(StateError, match="is being changed by another process"):
        RegistryFile(registry).set_aside("ada", Fate("drop", "x"))
    assert registry.read_text() == TEXT


def test_many_at_once_end_with_all_rows_or_a_clear_word(registry: Path) -> None:
    refused: list[NexusError] = []

    def add(i: int) -> None:
        try:
            RegistryFile(registry).add(NewTeacher(source=f"a/t{i}", capabilities=("code",)), Plugins([]))
        except StateError as error:
            refused.append(error)

    threads = [threading.Thread(target=add, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_registry(registry).teachers) == 2 + 8 - len(refused)


def test_a_link_to_the_registry_stays_one(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    registry.rename(tmp_path / "elsewhere/real.yaml")
    registry.symlink_to(tmp_path / "elsewhere/real.yaml")
    call("drop", "ada", "--reason", "x")
    assert registry.is_symlink() and "fate:" in (tmp_path / "elsewhere/real.yaml").read_text()


def test_line_ends_stay_what_they_were(registry: Path) -> None:
    registry.write_bytes(TEXT.replace("\n", "\r\n").encode())
    call("drop", "ada", "--reason", "x")
    assert registry.read_bytes().count(b"\n") == registry.read_bytes().count(b"\r\n")


@pytest.mark.parametrize("end", ["|", "|+", ">+", '"a\n\n      b"'])
def test_a_row_that_ends_in_any_kind_of_text_keeps_it(registry: Path, end: str) -> None:
    """Or it is refused: nothing is ever changed on the way."""
    text = TEXT.replace(
        "notes: >-\n      Two lines\n      of notes.\n\n",
        f"notes: {end}\n      a\n\n\n" if "a" not in end else f"notes: {end}\n\n",
    )
    registry.write_text(text)
    before: Callable[[], str] = lambda: load_registry(registry).teacher("ada").notes  # noqa: E731
    notes = before()
    try:
        call("drop", "ada", "--reason", "x")
    except RegistryError as error:
        assert "nothing can be added" in error.message and registry.read_text() == text
    assert before() == notes
