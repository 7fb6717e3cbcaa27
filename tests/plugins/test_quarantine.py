"""Whatever a third-party plugin does wrong, it is named with its reason in one line, and everything else goes on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from nexus_core.errors import PluginError
from nexus_core.plugins import Membership, Plugins

HEAD = "from nexus_core.hooks import hookimpl\nNEXUS_API = 1\n"
METRIC = HEAD + "@hookimpl\ndef capability_metric(name): return None\n"
GOOD_METRIC = """
from nexus_core.types import CapabilityMetric, Direction
class M(CapabilityMetric):
    name, metric, direction = "good", "exact_match", Direction.HIGHER
    def samples(self, request): return iter(())
    def score(self, sample, output): return 0.0
"""


@dataclass(frozen=True)
class Bad:
    reason: str  # a pattern that the reason must match
    source: str = METRIC
    kind: str = "capability"
    extra: dict[str, Any] = field(default_factory=dict)


BAD = {
    "raises": Bad("import of .* failed: ZeroDivisionError: division by zero", "1 / 0"),
    "exits": Bad("import of .* failed: SystemExit: 3", "import sys; sys.exit(3)"),
    "outcome": Bad("import of .* failed: Gone: away", "class Gone(BaseException): ...\nraise Gone('away')"),
    "syntax": Bad(r"SyntaxError: .*plugin\.py, line 2\)", "x = 1\ndef broken(:\n"),
    "encoding": Bad("import of .* failed: SyntaxError", "# coding: no-such-coding\n"),
    "manylines": Bad("RuntimeError: first second$", "raise RuntimeError('first\\n\\n   second')"),
    "absent": Bad(
        "needs no-such-package, which is not installed", extra={"requires": ["nexus-core", "no-such-package>=1"]}
    ),
    "tooold": Bad(r"needs pluggy>=99, but \d.* is installed", extra={"requires": ["pluggy>=99"]}),
    "throughextra": Bad(
        "needs no-such-package, which is not installed", extra={"requires": ["helper-with-extra[more]"]}
    ),
    "badrequirement": Bad("its metadata holds an invalid requirement", extra={"requires": ["not a requirement =="]}),
    "badextra": Bad("its metadata holds an invalid requirement", extra={"requires": ["helper-with-extra[bad]"]}),
    "imports": Bad("ModuleNotFoundError: No module named 'undeclared_package'", "import undeclared_package"),
    "misspelt": Bad(
        "implements an unknown hook 'capability_metrics'; did you mean 'capability_metric'",
        HEAD + "@hookimpl\ndef capability_metrics(name): return None\n",
    ),
    "strangehook": Bad("unknown hook 'zzz'$", METRIC + "@hookimpl\ndef zzz(name): return None\n"),
    "argument": Bad(
        "hook capability_metric takes 'title', which its specification does not have",
        HEAD + "@hookimpl\ndef capability_metric(name, title): return None\n",
    ),
    "otherapi": Bad("was written for NEXUS_API 2; this nexus-core speaks 1", METRIC.replace("API = 1", "API = 2")),
    "noapi": Bad("declares no NEXUS_API", METRIC.replace("NEXUS_API = 1", "")),
    "getattr": Bad("RuntimeError: no", METRIC.replace("NEXUS_API = 1", "def __getattr__(n): raise RuntimeError('no')")),
    "wrapper": Bad(
        "hook capability_metric is a wrapper",
        HEAD + "@hookimpl(wrapper=True)\ndef capability_metric(name): return (yield)\n",
    ),
    "oldwrapper": Bad(
        "hook capability_metric is a wrapper",
        HEAD + "@hookimpl(hookwrapper=True)\ndef capability_metric(name): yield\n",
    ),
    "useless": Bad("implements none of capability_metric", HEAD),
    "otherkind": Bad("implements none of build_adapter, decode", METRIC, kind="tower"),
    "nomodule": Bad("ModuleNotFoundError: .*'nexus_no_such'", extra={"entry": "nexus_no_such.plugin"}),
    "nosubmodule": Bad("No module named 'nexus_capability_nosubmodule.gone'", extra={
        "entry": "nexus_capability_nosubmodule.gone"
    }),
    "noattribute": Bad("has no attribute 'gone'", extra={"entry": "nexus_capability_noattribute.plugin:gone"}),
    "notaname": Bad("import of ..x failed", extra={"entry": "..x"}),
}  # fmt: skip

TWICE = {"twice": "the name is also claimed by"}
SHARED = {"second_name": "its module is registered already, as capability:first_name"}


def install_all(site) -> None:
    for name, bad in BAD.items():
        site.add(bad.kind, name, bad.source, **bad.extra)
    site.distribution("helper-with-extra", provides=["more", "bad"], requires=[
        'no-such-package; extra == "more"', 'not a requirement ==; extra == "bad"', "click"
    ])  # fmt: skip
    for distribution in ("acme-twice", "nexus-capability-twice"):
        package = distribution.replace("-", "_")
        site.add("capability", "twice", METRIC, distribution=distribution, package=package)
    entries = "second_name = nexus_capability_first_name.plugin\n"
    site.add("capability", "first_name", METRIC, entries=entries)
    site.add("capability", "good", METRIC)
    half_removed = site.distribution("nexus-capability-halfremoved", entry_points="[nexus.capabilities]\nhalf = x.y\n")
    (half_removed / "METADATA").unlink()
    site.distribution("not-ini", entry_points="[nexus.capabilities\n no equals sign here\n\n = \n")


@pytest.fixture(scope="module")
def all_bad(new_site):
    site = new_site()
    install_all(site)
    return site


@pytest.fixture(scope="module")
def listing(all_bad):
    result = all_bad.nexus("plugins", "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", [*BAD, *TWICE, *SHARED])
def test_listed_with_its_reason_in_one_line(listing, name):
    expected = BAD[name].reason if name in BAD else {**TWICE, **SHARED}[name]
    rows = [row for row in listing if row["name"] == name]
    assert rows
    for row in rows:
        assert row["status"] == "quarantined"
        assert re.search(expected, row["reason"]), row["reason"]
        assert "\n" not in row["reason"]
        assert len(row["reason"]) < 300


def test_both_distributions_of_one_name_are_told_of_each_other(listing):
    reasons = {row["distribution"]: row["reason"] for row in listing if row["name"] == "twice"}
    assert "nexus-capability-twice" in reasons["acme-twice"]
    assert "acme-twice" in reasons["nexus-capability-twice"]


@pytest.mark.parametrize("name", ["good", "first_name"])
def test_the_others_still_load(listing, name):
    (row,) = [row for row in listing if row["name"] == name]
    assert row["status"] == "ok"
    assert row["hooks"] == ["capability_metric"]


def test_damaged_metadata_of_one_distribution_hides_no_other(listing):
    """A half-removed distribution or an unreadable entry_points.txt would stop `importlib.metadata.entry_points`."""
    assert {"good", "half"} <= {row["name"] for row in listing}


def test_table_has_one_line_per_plugin(all_bad, listing):
    result = all_bad.nexus("plugins")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + len(listing)
    for name, bad in BAD.items():
        (line,) = [line for line in lines if line.split()[1] == name]
        assert "quarantined" in line and re.search(bad.reason, line)


def test_strict_makes_quarantine_fatal_after_the_table(all_bad):
    result = all_bad.nexus("plugins", NEXUS_STRICT="1")
    assert result.returncode == 1
    assert "division by zero" in result.stdout
    assert "good" in result.stdout
    assert "Traceback" not in result.stderr


def test_strict_with_nothing_quarantined_is_fine(new_site):
    site = new_site()
    site.add("capability", "good", METRIC)
    assert site.nexus("plugins", NEXUS_STRICT="1", NEXUS_PLUGINS="good").returncode == 0


def test_help_and_other_commands_stay_usable(all_bad):
    for arguments in (["--help"], ["registry", "list"], ["completion", "bash"]):
        result = all_bad.nexus(*arguments)
        assert result.returncode == 0, (arguments, result.stderr)


def test_a_plugin_that_prints_does_not_spoil_json(new_site):
    site = new_site()
    site.add("capability", "chatty", "print('hello from import')\n" + METRIC)
    result = site.nexus("plugins", "--json")
    assert "chatty" in {row["name"] for row in json.loads(result.stdout)}
    assert "hello from import" in result.stderr


@pytest.mark.parametrize("name", BAD)
def test_naming_it_fails_with_that_line(site, monkeypatch, name):
    bad = BAD[name]
    site.distribution("helper-with-extra", provides=["more", "bad"], requires=[
        'no-such-package; extra == "more"', 'not a requirement ==; extra == "bad"', "click"
    ])  # fmt: skip
    site.add(bad.kind, name, bad.source, **bad.extra)
    site.add("capability", "good", METRIC)
    monkeypatch.setenv("NEXUS_PLUGINS", f"good,{name}")
    with pytest.raises(PluginError) as caught:
        Plugins().require()
    assert re.search(bad.reason, str(caught.value))
    assert f"plugin {name} ({bad.kind})" in str(caught.value)
    assert "nexus plugins check" in caught.value.hint


@pytest.mark.parametrize("name", ["raises", "misspelt", "absent"])
def test_not_named_it_blocks_nothing_unless_strict(site, monkeypatch, name):
    """Selected by way of its tower, so that it may be loaded, but not named itself."""
    bad = BAD[name]
    site.add(bad.kind, name, bad.source, **bad.extra)
    answers = METRIC.replace("return None", "return None if name != 'good' else __import__(__package__ + '.m').m.M()")
    site.add("capability", "good", answers, files={"m.py": GOOD_METRIC})
    site.add("tower", "probe", HEAD + "@hookimpl\ndef decode(modality): return None\n")
    membership = Membership({name: "probe", "good": "probe"}, {})
    plugins = Plugins(["probe"], membership)
    plugins.require()
    assert plugins.capability_metric("good").name == "good"
    with pytest.raises(PluginError, match=bad.reason):
        plugins.capability_metric(name)
    monkeypatch.setenv("NEXUS_STRICT", "1")
    with pytest.raises(PluginError, match=f"plugin {name} .*{bad.reason}"):
        Plugins(["probe"], membership).capability_metric("good")
    with pytest.raises(PluginError, match="is quarantined"):
        Plugins(["probe"], membership).require()


def test_a_command_that_needs_a_named_quarantined_plugin_fails(all_bad):
    code = """
        from nexus_core.cli.context import open_plugins
        from nexus_core.cli import main
        import click
        main.cli.add_command(click.Command("use", callback=lambda: open_plugins().require()))
        main.main(["use"])
    """
    result = all_bad.python(code, NEXUS_PLUGINS="raises")
    assert result.returncode == 1
    *_, first, second = result.stderr.splitlines()
    assert first.startswith("error: plugin raises (capability) is quarantined: import of")
    assert second == "hint:  see: nexus plugins check raises"


def test_a_misspelt_plugin_leaves_nothing_registered(site):
    site.add("capability", "misspelt", METRIC + "@hookimpl\ndef decoder(output): return 1\n")
    site.add("capability", "good", METRIC)
    plugins = Plugins()
    assert {s.ref.name for s in plugins.status() if s.ok} >= {"good"}
    assert "capability:misspelt" not in {
        impl.plugin_name for impl in plugins._manager.hook.capability_metric.get_hookimpls()
    }
