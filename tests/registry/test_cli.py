"""`nexus registry`: what it prints, its exit status, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from nexus_core.cli.registry import command
from nexus_core.errors import RegistryError
from nexus_core.resources import shared_path

Write = Callable[..., Path]
TABLE = "ModelName,Parameters,Category,BestFeature\nOracle,9B,Weather,rain\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEXUS_REGISTRY", raising=False)

    def run(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run


def test_list_says_who_is_present_and_why_the_others_are_not(
    run: Callable[..., tuple[int, str]], write: Write, small: str, tmp_path: Path
) -> None:
    write(small.replace("path: null", "path: models/ada"))
    code, output = run("list")
    assert code == 0
    assert f"absent: {Path('models/ada')} does not exist" in output
    (tmp_path / "models" / "ada").mkdir(parents=True)
    (tmp_path / "models" / "ada" / "config.json").write_text("{}")
    code, output = run("list")
    line = next(line for line in output.splitlines() if line.startswith("ada "))
    assert line.split() == ["ada", "text", "math", "present"]
    assert ">= 0.97 x teacher" in next(line for line in output.splitlines() if line.startswith("math "))
    assert "<= 1.03 x teacher" in next(line for line in output.splitlines() if line.startswith("wer "))


def test_list_json_is_one_document(run: Callable[..., tuple[int, str]], write: Write) -> None:
    document = json.loads(run("list", "--json", "--registry", write())[1])
    ada = next(teacher for teacher in document["teachers"] if teacher["id"] == "ada")
    assert (ada["present"], ada["path"], ada["tower"], ada["capabilities"]) == (False, None, "text", ["math"])
    math = next(row for row in document["capabilities"] if row["id"] == "math")
    assert (math["retain_fraction"], math["direction"], math["teachers"]) == (0.97, "higher", ["ada"])


def test_check_of_a_sound_file_notes_what_nobody_provides(run: Callable[..., tuple[int, str]], write: Write) -> None:
    code, output = run("check", write())
    assert code == 0
    assert "note: wer: no installed plugin of this name provides it" in output
    assert "registry.yaml: sound (" in output


def test_check_reports_every_problem_with_its_hint_and_fails(
    run: Callable[..., tuple[int, str]], write: Write, small: str
) -> None:
    path = write(small.replace("metric: exact", "metrc: exact").replace("latent_max", "latent_mx"))
    code, output = run("check", path)
    assert code == 1
    assert f'{path}:18: unknown key "metrc" in capabilities.math.contract; did you mean "metric"?' in output
    assert f'{path}:10: unknown key "latent_mx" in towers.text; did you mean "latent_max"?' in output
    assert "hint: known here:" in output
    assert "4 problems" in output


def test_check_of_a_file_that_is_not_yaml_reports_it_too(run: Callable[..., tuple[int, str]], write: Write) -> None:
    code, output = run("check", write("a: [1\n"))
    assert code == 1
    assert "not YAML" in output


def test_rows_of_a_plugin_that_do_not_fit_are_left_out_and_named(
    run: Callable[..., tuple[int, str]], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real installed distribution: metadata, an entry point, and a registry.yaml with a mistake in it."""
    site = tmp_path / "site"
    (site / "bad_pack").mkdir(parents=True)
    (site / "bad_pack" / "__init__.py").write_text("raise RuntimeError('imported')")
    (site / "bad_pack" / "registry.yaml").write_text("teechers: {}\n")
    info = site / "bad_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nexus.teachers]\nbad = bad_pack.plugin\n")
    monkeypatch.syspath_prepend(str(site))
    path = write()
    wanted = f'left out: {site}/bad_pack/registry.yaml:1: unknown key "teechers"; did you mean "teachers"?'
    monkeypatch.delenv("NEXUS_STRICT", raising=False)
    code, output = run("check", path)
    assert code == 0
    assert wanted in output
    assert wanted in run("list", "--registry", path)[1]
    monkeypatch.setenv("NEXUS_STRICT", "1")
    assert run("check", path)[0] == 1


def test_a_registry_that_is_not_there_is_an_error(run: Callable[..., tuple[int, str]]) -> None:
    with pytest.raises(RegistryError, match=r"no registry at gone\.yaml"):
        run("check", "gone.yaml")


def test_import_adds_and_names_what_it_could_not_map(run: Callable[..., tuple[int, str]], write: Write) -> None:
    path, table = write(), write(TABLE, "t.csv")
    before = path.read_text()
    code, output = run("import", table, "--dry-run")
    assert (code, path.read_text()) == (0, before)
    assert "oracle:\n  name: Oracle\n" in output
    assert "registry.yaml: would add 1, already there 0" in output
    code, output = run("import", table, "--registry", path)
    assert code == 0
    assert "registry.yaml: added 1, already there 0" in output
    assert "not mapped: oracle: Weather" in output
    assert "added 0, already there 1" in run("import", table)[1]
    assert "note: oracle: not mapped to a tower" in run("check")[1]


def test_registry_commands_import_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "diffusers", "sklearn", "bitsandbytes")
    program = (
        "import sys\nfrom nexus_core.cli.registry import command\n"
        f"command(['list', '--json', '--registry', {str(shared_path('registry.yaml'))!r}], standalone_mode=False)\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_help_and_the_state_module_import_not_even_a_parser(tmp_path: Path) -> None:
    late = ("yaml", "jsonschema", "rich", "filelock")
    program = (
        "import sys, nexus_core.cli.registry, nexus_core.state\n"
        f"print([name for name in {late!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "[]"
