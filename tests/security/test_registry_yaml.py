"""Hostile registry files are refused in one line, quickly, and run nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nexus_core.errors import RegistryError
from nexus_core.registry import check_registry, load_registry

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(c + 1)}: &{chr(c + 1)} [{', '.join([f'*{chr(c)}'] * 9)}]\n" for c in range(ord("a"), ord("i"))
)
HOSTILE = {
    "billion laughs": (LAUGHS, ":1: an anchor (&a)"),
    "cycle in a list": ("a: &x [*x]\n", ":1: an anchor (&x)"),
    "cycle in a mapping": ("&x\na: *x\n", ":1: an anchor (&x)"),
    "dangling alias": ("a: *x\n", ":1: an alias (*x)"),
    "python object": ("a: !!python/object/apply:os.system [touch pwned]\n", ":1: a tag"),
    "python name": ("version: !!python/name:os.system\n", ":1: a tag"),
    "python object as a mapping": ("a: !!python/object:subprocess.Popen {args: touch pwned}\n", ":1: a tag"),
    "own tag": ("a: !x 1\n", ":1: a tag (!x)"),
    "standard tag": ("a: !!set {b, c}\n", ":1: a tag"),
    "tag directive": ("%TAG ! tag:yaml.org,2002:python/\n---\na: !name:os.system x\n", "a tag"),
    "deep flow": ("[" * 200_000, "nested deeper than 16"),
    "deep mappings": ("a: " + "{b: " * 100_000, "nested deeper than 16"),
    "deep block": ("\n".join(" " * i + "a:" for i in range(500)), "nested deeper than 16"),
    "huge": ("a: " + "x" * (4 * 1024 * 1024), "larger than 4 MB"),
    "many values": ("".join(f"k{i}: 1\n" for i in range(60_000)), "more than 50000 values"),
    "huge number": ("a: " + "9" * 100_000, "is not a number that can be used"),
    "infinity": ("a: .inf\n", ".inf is not a number"),
    "not a number": ("a: .nan\n", ".nan is not a number"),
    "key that is a list": ("? [a, b]\n: 1\n", "a mapping or list used as a key"),
    "key that is a mapping": ("{a: 1}: 2\n", "a mapping or list used as a key"),
    "two documents": ("a: 1\n---\nb: 2\n", "a second YAML document"),
    "tab": ("a:\n\tb: 1\n", ":2: a tab in the indentation"),
    "control character": ("a: \x07\n", "not YAML"),
    "empty": ("", ":1: the file is empty"),
    "comment only": ("# nothing\n", ":1: the file is empty"),
    "null": ("null\n", ":1: the file is empty"),
    "list": ("- a\n", ":1: the file is a list, not a mapping"),
    "text": ("hello\n", ":1: the file is a text, not a mapping"),
    "number": ("3\n", ":1: the file is a number, not a mapping"),
    "unclosed": ("a: [1, 2\n", "not YAML"),
    "unclosed quote": ('a: "b\n', "not YAML"),
    "reserved": ("a: @b\n", "not YAML"),
}
BINARY = {
    "not utf-8": (b"a: \xff\xfe\n", ":1: not UTF-8 text (byte 3)"),
    "utf-16": ("version: 1\n".encode("utf-16"), "not UTF-8 text"),
    "zip": (b"PK\x03\x04\x14\x00\x08\x08\x00", "not YAML"),
    "nul": (b"version: 1\n\x00", "not YAML"),
}
CASES = {name: (text.encode(), message) for name, (text, message) in HOSTILE.items()} | BINARY


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line_and_quickly(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = CASES[name]
    path = tmp_path / "registry.yaml"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(RegistryError) as error:
        load_registry(path)
    assert time.process_time() - start < 10  # a slow machine needs 1 s for the largest; a blow-up would need hours
    assert message in error.value.message
    assert error.value.message.startswith(str(path))
    assert "\n" not in error.value.message
    assert len(error.value.message) < 500
    assert error.value.hint
    assert next(problem.message for problem in check_registry(path)) in error.value.message
    assert list(tmp_path.iterdir()) == [path], "something was executed"


def test_a_merge_key_is_text(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("<<: {version: 1}\n")
    assert any('unknown key "<<"' in problem.message for problem in check_registry(path))


def test_duplicate_keys_are_refused_at_every_depth(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("version: 1\nversion: 1\ntowers:\n  text: {latent_max: 1, latent_max: 2, description: x}\n")
    messages = [problem.message for problem in check_registry(path)]
    assert '"version" appears twice (lines 1 and 2)' in messages
    assert '"latent_max" appears twice in towers.text (lines 4 and 4)' in messages


def test_a_directory_or_a_broken_link_is_an_error_too(tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to(tmp_path / "gone.yaml")
    with pytest.raises(RegistryError, match="no registry at"):
        load_registry(tmp_path / "link.yaml")
    with pytest.raises(RegistryError, match="no registry at"):
        load_registry(tmp_path)
