"""Which plugins may be loaded is settled before any is imported."""

from __future__ import annotations

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from nexus_core.errors import UsageError
from nexus_core.plugins import NO_MEMBERSHIP, Membership, Plugins, from_names
from nexus_core.types import Kind

HEAD = "from nexus_core.hooks import hookimpl\nNEXUS_API = 1\n"
METRIC = HEAD + "@hookimpl\ndef capability_metric(name): return None\n"
TOWER = HEAD + "@hookimpl\ndef decode(modality, output): return output if modality == 'smell' else None\n"
TEACHER = HEAD + "@hookimpl\ndef detect_model_category(source): return None\n"
MEMBERSHIP = Membership({"rose": "smell", "salt": "taste", "unbuilt": "smell"}, {"acme/nose-7b": "smell"})


@pytest.fixture
def garden(site):
    """Two towers with a capability each, and two teacher plugins."""
    for kind, source, names in (
        ("tower", TOWER, ("smell", "taste")),
        ("capability", METRIC, ("rose", "salt")),
        ("teacher", TEACHER, ("nose", "tongue")),
    ):
        for name in names:
            site.add(kind, name, source)
    return site


def loaded(plugins: Plugins) -> set[str]:
    """What was selected of the garden; the plugins of this checkout's own environment do not count."""
    garden = {"smell", "taste", "rose", "salt", "nose", "tongue"}
    return {status.ref.name for status in plugins.status()} & garden


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["smell"], {"smell", "rose", "nose", "tongue"}),
        (["rose"], {"smell", "rose", "nose", "tongue"}),
        (["acme/nose-7b"], {"smell", "nose", "tongue"}),
        (["nose"], {"nose"}),
        (["smell", "nose"], {"smell", "rose", "nose"}),
        (["taste", "rose"], {"taste", "salt", "smell", "rose", "nose", "tongue"}),
        ([], set()),
    ],
)
def test_a_name_selects_what_belongs_to_it(garden, names, expected):
    assert loaded(Plugins(names, MEMBERSHIP)) == expected


def test_selection_by_tower_excludes_plugins_of_no_named_tower(garden):
    assert {s.ref.name for s in Plugins(["smell"], MEMBERSHIP).status(Kind.CAPABILITY)} == {"rose"}
    assert {s.ref.name for s in Plugins(["smell"], MEMBERSHIP).status(Kind.TOWER)} == {"smell"}


def test_nothing_named_selects_everything(garden):
    assert loaded(Plugins()) == {"smell", "taste", "rose", "salt", "nose", "tongue"}


def test_selection_comes_before_import(garden):
    code = """
        import sys
        from nexus_core.plugins import Membership, Plugins
        plugins = Plugins(["smell"], Membership({"rose": "smell", "salt": "taste"}, {}))
        assert not [name for name in sys.modules if name.startswith("nexus_") and "nexus_core" not in name]
        print(len(plugins.status()), *[name for name in sys.modules if name.endswith(".plugin")])
    """
    result = garden.python(code)
    assert result.returncode == 0, result.stderr
    imported = result.stdout.split()[1:]
    assert {"nexus_tower_smell.plugin", "nexus_capability_rose.plugin", "nexus_teacher_nose.plugin"} <= {*imported}
    assert not [name for name in imported if name.startswith(("nexus_tower_", "nexus_capability_"))
                and name not in ("nexus_tower_smell.plugin", "nexus_capability_rose.plugin")]  # fmt: skip


def test_asking_for_one_kind_imports_no_other(garden):
    plugins = Plugins(["smell"], MEMBERSHIP)
    assert plugins.decode("smell", "a rose") == "a rose"
    assert "nexus_tower_smell.plugin" in sys.modules
    assert "nexus_capability_rose" not in sys.modules
    assert "nexus_teacher_nose" not in sys.modules


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", set()), (" , ", set()), ("nose, smell", {"nose", "smell"}), ("nose,,nose", {"nose"})],
)
def test_the_environment_selects(garden, monkeypatch, text, expected):
    monkeypatch.setenv("NEXUS_PLUGINS", text)
    assert loaded(Plugins()) == expected
    assert {s.ref.name for s in Plugins().status()} == expected


def test_an_argument_wins_over_the_environment(garden, monkeypatch):
    monkeypatch.setenv("NEXUS_PLUGINS", "nose")
    assert loaded(Plugins(["tongue"])) == {"tongue"}
    assert from_names(None) is None
    assert from_names(" a, b,") == ["a", "b"]


def test_an_empty_environment_loads_none_from_the_command_line(garden):
    result = garden.nexus("plugins", "--json", NEXUS_PLUGINS="")
    assert (result.returncode, json.loads(result.stdout)) == (0, [])
    assert garden.nexus("plugins", NEXUS_PLUGINS="").stdout.startswith("no plugins")


def test_the_registry_says_what_belongs_to_a_tower(garden):
    """Through the command line: registry.yaml knows that reasoning belongs to the text tower."""
    names = {row["name"] for row in json.loads(garden.nexus("plugins", "--json", NEXUS_PLUGINS="text").stdout)}
    assert {"text", "reasoning", "transformers"} <= names
    assert not names & {"smell", "taste", "rose", "salt"}


@pytest.mark.parametrize(("name", "guess"), [("smel", "smell"), ("tounge", "tongue"), ("acme/nose-7", "acme/nose-7b")])
def test_an_unknown_name_is_a_usage_error_with_a_guess(garden, name, guess):
    with pytest.raises(UsageError, match=f"no plugin or teacher is called '{name}'") as caught:
        Plugins([name], MEMBERSHIP)
    assert caught.value.hint == f"did you mean '{guess}'? list them with: nexus plugins"
    assert caught.value.exit_code == 2


def test_an_unknown_name_in_the_environment_exits_2(garden):
    result = garden.nexus("plugins", NEXUS_PLUGINS="smel")
    assert result.returncode == 2
    *_, error, hint = result.stderr.splitlines()
    assert error == "error: no plugin or teacher is called 'smel'"
    assert "did you mean 'smell'" in hint


@pytest.mark.parametrize("name", ["../x", "a:b", "rose:salt", "*", "\x00", "x" * 5000])
def test_odd_names_are_only_unknown(garden, name):
    with pytest.raises(UsageError):
        Plugins([name], MEMBERSHIP)


def test_a_capability_that_no_plugin_provides_is_unknown_though_the_registry_has_it(garden):
    with pytest.raises(UsageError, match="'unbuilt'"):
        Plugins(["unbuilt"], MEMBERSHIP)


def _in_a_worker(plugins: Plugins) -> tuple[list[str], object]:
    return [s.ref.key for s in plugins.status() if s.ok], plugins.decode("smell", 1)


def test_a_spawned_worker_has_the_same_plugins(garden, monkeypatch):
    monkeypatch.setenv("NEXUS_PLUGINS", "salt")  # what the parent was built with counts, not the worker's environment
    plugins = Plugins(["smell", "nose"], MEMBERSHIP)
    here = [s.ref.key for s in plugins.status()]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there, answer = pool.submit(_in_a_worker, plugins).result(timeout=60)
    assert there == here == ["teacher:nose", "capability:rose", "tower:smell"]
    assert answer == 1


def test_a_worker_keeps_a_selection_that_came_from_the_environment(garden, monkeypatch):
    monkeypatch.setenv("NEXUS_PLUGINS", "smell,nose")
    plugins = Plugins(None, NO_MEMBERSHIP)
    monkeypatch.delenv("NEXUS_PLUGINS")
    rebuild, arguments = plugins.__reduce__()
    assert [s.ref.key for s in rebuild(*arguments).status()] == [s.ref.key for s in plugins.status()]


def test_extra_plugins_travel_to_a_worker_too(garden):
    """A plugin that is checked from a path is not installed; the worker must find it nevertheless."""
    (ref,) = [ref for ref in Plugins().refs if ref.key == "tower:smell"]
    plugins = Plugins([], extra=[ref])
    rebuild, arguments = plugins.__reduce__()
    assert [s.ref for s in rebuild(*arguments).status()] == [ref]


# --- the rows that plugins bring to the registry -----------------------------------------------------------------------

BAD_ROWS = "version: 1\ncapabilities:\n  salt: {tier: 1}\n"
ROWS = "version: 1\ntowers:\n  smell: {latent_max: 8, description: Smells.}\n"


@pytest.fixture
def shop(garden):
    garden.add("capability", "salt", METRIC, files={"registry.yaml": BAD_ROWS})
    garden.add("tower", "smell", TOWER, files={"registry.yaml": ROWS})
    return garden


def test_faulty_rows_of_a_plugin_that_is_not_named_are_left_out_and_said(shop):
    result = shop.nexus("plugins", "--json", NEXUS_PLUGINS="smell")
    assert result.returncode == 0, result.stderr
    assert "smell" in {row["name"] for row in json.loads(result.stdout)}
    lines = [line for line in result.stderr.splitlines() if "nexus_capability_salt" in line]
    assert lines and all(line.startswith("left out: ") and "registry.yaml:3: " in line for line in lines)


def test_faulty_rows_of_a_named_plugin_are_an_error_with_their_line(shop):
    result = shop.nexus("plugins", NEXUS_PLUGINS="salt")
    assert result.returncode == 1
    assert "nexus_capability_salt" in result.stderr and "registry.yaml:3: " in result.stderr
    assert shop.nexus("plugins", NEXUS_PLUGINS="smell", NEXUS_STRICT="1").returncode == 1
