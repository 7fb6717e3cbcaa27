"""Plugins are found in packaging metadata, in a fixed order, without importing them; their files too."""

from __future__ import annotations

import sys

import pytest

from nexus_core.discovery import PluginRef, discover, hook_names, load, new_manager, package_file, registry_fragments
from nexus_core.types import Kind

HEAD = "from nexus_core.hooks import hookimpl\nNEXUS_API = 1\n"
METRIC = HEAD + "@hookimpl\ndef capability_metric(name): return None\n"


def refs(site) -> list[PluginRef]:
    return [ref for ref in discover() if ref.package in site.packages]


def test_everything_that_the_metadata_says(site):
    site.add("capability", "my_pack", METRIC, requires=["nexus-core>=0.1,<0.2", "click>=8"])
    (ref,) = refs(site)
    assert ref == PluginRef(
        Kind.CAPABILITY,
        "my_pack",
        "nexus_capability_my_pack.plugin",
        "nexus-capability-my-pack",
        "0.1.0",
        ("nexus-core>=0.1,<0.2", "click>=8"),
    )
    assert (ref.key, ref.package) == ("capability:my_pack", "nexus_capability_my_pack")


def test_sorted_by_kind_and_name_and_nothing_imported(site):
    for kind, name in (("tower", "a"), ("capability", "b"), ("teacher", "z"), ("capability", "a"), ("teacher", "a")):
        site.add(kind, name, "raise SystemExit('imported')")
    assert [ref.key for ref in refs(site)] == ["teacher:a", "teacher:z", "capability:a", "capability:b", "tower:a"]
    assert not [name for name in sys.modules if name.split(".")[0] in site.packages]


def test_entry_points_of_other_groups_are_not_ours(site):
    site.add("capability", "x", METRIC, entries="[console_scripts]\nx = y:z\n[nexus.capabilitys]\ny = z\n")
    assert [ref.name for ref in refs(site)] == ["x"]


def test_a_distribution_may_hold_several_plugins(site):
    site.add(
        "capability", "x", METRIC, entries="y = nexus_capability_x.other\n[nexus.towers]\nz = nexus_capability_x.z\n"
    )
    assert [ref.key for ref in refs(site)] == ["capability:x", "capability:y", "tower:z"]


def test_a_distribution_that_is_on_the_path_twice_counts_once(site, tmp_path, monkeypatch):
    """An editable install beside an old copy: the first on the path is the live one."""
    site.add("capability", "x", METRIC)
    old = tmp_path / "old"
    info = old / "nexus_capability_x-0.0.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nexus-capability-x\nVersion: 0.0.9\n")
    (info / "entry_points.txt").write_text("[nexus.capabilities]\nx = nexus_capability_x.old\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(old)])
    assert [(ref.module, ref.version) for ref in refs(site)] == [("nexus_capability_x.plugin", "0.1.0")]


def test_the_built_in_plugins_come_by_the_same_road():
    found = {ref.key: ref.distribution for ref in discover()}
    assert found["teacher:transformers"] == "nexus-teacher-transformers"
    assert found["tower:text"] == "nexus-tower-text"
    assert found["capability:reasoning"] == "nexus-capability-reasoning"


@pytest.mark.parametrize("entry", ["nexus_capability_x.plugin:inside", "nexus_capability_x.plugin:inside.deeper"])
def test_an_entry_point_may_be_an_object_in_a_module(site, entry):
    source = """
        from nexus_core.hooks import hookimpl
        class Inside:
            NEXUS_API = 1
            @hookimpl
            def capability_metric(self, name):
                return None
        inside = Inside()
        inside.deeper = inside
    """
    site.add("capability", "x", source, entry=entry)
    assert load(refs(site)[0], new_manager()).hooks == ("capability_metric",)


def test_a_requirement_for_another_platform_does_not_count(site):
    needs = ["absent-package; sys_platform == 'no-such'", "absent-package; extra == 'gpu'"]
    site.add("capability", "x", METRIC, requires=needs)
    assert load(refs(site)[0], new_manager()).ok


def test_extras_are_followed_to_what_they_bring(site):
    site.distribution("has-extra", provides=["a", "b"], requires=[
        'has-extra[b]; extra == "a"', 'absent-package; extra == "b"'
    ])  # fmt: skip
    site.add("capability", "x", METRIC, requires=["has-extra"])
    site.add("capability", "y", METRIC, requires=["has-extra[a]"])
    x, y = refs(site)
    assert load(x, new_manager()).ok
    assert load(y, new_manager()).reason == "needs absent-package, which is not installed"


def test_an_extra_that_needs_itself_ends(site):
    site.distribution("circular", provides=["a"], requires=['circular[a]; extra == "a"'])
    site.add("capability", "x", METRIC, requires=["circular[a]"])
    assert load(refs(site)[0], new_manager()).ok


def test_a_pre_release_meets_a_requirement(site):
    site.distribution("early", version="2.0.0rc1")
    site.add("capability", "x", METRIC, requires=["early>=1"])
    assert load(refs(site)[0], new_manager()).ok


def test_files_of_a_package_are_found_without_importing_it(site):
    files = {"registry.yaml": "version: 1\n", "data/deep.txt": "x"}
    site.add("capability", "x", "raise SystemExit('imported')", files=files)
    site.add("capability", "y", "raise SystemExit('imported')")
    assert [name for name, _ in registry_fragments(refs(site))] == ["x"]
    assert package_file("nexus_capability_x", "data/deep.txt").read_text() == "x"
    assert package_file("nexus_capability_x", "absent.txt") is None
    assert package_file("nexus_no_such_package", "registry.yaml") is None
    assert package_file("json.decoder", "registry.yaml") is None
    assert package_file("", "registry.yaml") is None
    assert "nexus_capability_x" not in sys.modules


def test_hook_names_are_those_of_hooks_py():
    assert len(hook_names()) == 6


def test_keyboard_interrupt_is_not_swallowed(site):
    site.add("capability", "x", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load(refs(site)[0], new_manager())
