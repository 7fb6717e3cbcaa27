"""manifest.json: canonical, strict in every key, and changed by nobody."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nexus_core.bundle.disk import read_manifest
from nexus_core.bundle.manifest import MANIFEST, TeacherFacts, VoiceFacts, canonical, parse_manifest
from nexus_core.errors import DataError, UsageError


@pytest.fixture(scope="module")
def values(bundle_once: Path) -> dict[str, Any]:
    return json.loads((bundle_once / MANIFEST).read_bytes())


def every_key(values: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Every key with a fixed name, as a path to it."""
    objects = [(), ("quantisation",), ("files", "README.md"), ("teachers", 0), ("capabilities", "tools")]
    objects += [("capabilities", "tools", part) for part in ("contract", "result", "options")]
    return [(*where, key) for where in objects for key in at(values, where) if key != "sha256" or where]


def at(values: Any, where: tuple[Any, ...]) -> Any:
    for key in where:
        values = values[key]
    return values


def test_what_was_written_is_read_and_written_the_same(bundle_once: Path) -> None:
    manifest = read_manifest(bundle_once)
    assert manifest.to_bytes() == (bundle_once / MANIFEST).read_bytes()
    assert parse_manifest(manifest.to_bytes(), "here") == manifest
    assert manifest.capabilities["tools"].adapter == "adapters/tools_adapter.safetensors"
    assert manifest.capabilities["uncensored"].isolated


def test_optional_values_come_back(bundle_once: Path) -> None:
    voice = VoiceFacts("offline", "some-tts", "0.90-0.97", "none")
    manifest = replace(read_manifest(bundle_once), voice=voice, teachers=(TeacherFacts("x", None, "", "dropped"),))
    again = parse_manifest(manifest.to_bytes(), "here")
    assert (again.voice, again.teachers) == (voice, manifest.teachers)


def test_every_missing_key_is_named(values: dict[str, Any]) -> None:
    paths = every_key(values)
    assert len(paths) == 40
    for path in paths:
        changed = json.loads(json.dumps(values))
        del at(changed, path[:-1])[path[-1]]
        with pytest.raises(DataError, match=path[-1]):
            parse_manifest(canonical(changed), "here")


@pytest.mark.parametrize(
    "where", [(), ("quantisation",), ("capabilities", "tools"), ("capabilities", "tools", "result"), ("student",)]
)
def test_an_unknown_key_is_named(values: dict[str, Any], where: tuple[str, ...]) -> None:
    changed = json.loads(json.dumps(values))
    at(changed, where)["surprise"] = 1
    with pytest.raises(DataError, match="surprise"):
        parse_manifest(canonical(changed), "here")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("seed",), "42"),
        (("format_version",), "1"),
        (("capabilities", "tools", "tier"), 1.5),
        (("capabilities", "tools", "result", "verdict"), "fail"),
        (("capabilities", "tools", "contract", "direction"), "sideways"),
        (("quantisation", "kind"), "int3"),
        (("files", "README.md", "sha256"), "00"),
        (("files", "README.md", "bytes"), -1),
        (("name",), "../up"),
        (("teachers",), {}),
    ],
)
def test_a_value_of_another_kind_is_named(values: dict[str, Any], where: tuple[str, ...], value: Any) -> None:
    changed = json.loads(json.dumps(values))
    at(changed, where[:-1])[where[-1]] = value
    with pytest.raises(DataError, match=where[0]):
        parse_manifest(canonical(changed), "here")


def test_a_later_version_says_what_to_do(values: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="format_version 2") as caught:
        parse_manifest(canonical({**values, "format_version": 2}), "here")
    assert "update" in caught.value.hint


@pytest.mark.parametrize("change", ["score", "spaces", "order", "hash"])
def test_the_text_is_the_only_one(values: dict[str, Any], change: str) -> None:
    raw = canonical({key: value for key, value in values.items() if key != "sha256"})
    raw = {
        "score": lambda: raw.replace(b"0.89,", b"0.99,"),
        "spaces": lambda: raw.replace(b"\n", b"\r"),
        "order": lambda: json.dumps(json.loads(raw)).encode(),
        "hash": lambda: raw.replace(json.loads(raw)["sha256"][:8].encode(), b"00000000"),
    }[change]()
    with pytest.raises(DataError, match="changed after it was written"):
        parse_manifest(raw, "here")


def test_parts_belong_together(tiny: ModuleType, bundle: Path) -> None:
    def other(change: Any, word: str) -> None:
        raw = (bundle / MANIFEST).read_bytes()
        tiny.edit(bundle, change)
        with pytest.raises(DataError, match=word):
            read_manifest(bundle)
        (bundle / MANIFEST).write_bytes(raw)

    other(lambda m: m["capabilities"].pop("tools"), '"tools" is not both')
    other(lambda m: m["capabilities"]["uncensored"].update(isolated=False), '"uncensored" differs')
    other(lambda m: m["capabilities"]["tools"].update(adapter="README.md"), "is no listed file")
    other(lambda m: m["capabilities"]["tools"].update(aliases=["reasoning"]), '"reasoning" names')
    other(lambda m: m["files"].pop("backbone/config.json"), "backbone/config.json")
    other(lambda m: m["files"].pop("backbone/backbone.safetensors"), "backbone/backbone.safetensors")
    other(lambda m: [m["files"].pop(name) for name in list(m["files"]) if "tokenizer" in name], "no tokenizer")


def test_names_and_aliases(bundle_once: Path) -> None:
    manifest = read_manifest(bundle_once)
    assert [manifest.resolve(name) for name in ("tools", "agent", "reasoning")] == ["tools", "tools", "reasoning"]
    with pytest.raises(UsageError, match=r'"reasonin".*did you mean'):
        manifest.resolve("reasonin")


def test_it_holds_no_time_and_no_path(bundle_once: Path, tmp_path: Path) -> None:
    for name in (MANIFEST, "README.md", "LICENSE", "backbone/config.json"):
        text = (bundle_once / name).read_text()
        assert str(tmp_path.parent) not in text
        assert "/tmp" not in text and "/home" not in text and "202" not in text, name
