"""A bundle is somebody else's data: a changed byte, a foreign file or a lying header is refused, and the file is named."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nexus_core.bundle.check import check_bundle
from nexus_core.bundle.disk import check_file, read_manifest
from nexus_core.bundle.reader import open_bundle
from nexus_core.errors import DataError, ModelError, NexusError

FLIPS = 3  # of each file, in the quick run


@pytest.fixture(scope="session")
def tiny(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).parents[1] / "bundle/tiny_bundle.py")


@pytest.fixture(scope="session")
def bundle_once(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("hostile") / "bundle", quantisation="fp16", shard_limit=20_000)


@pytest.fixture
def bundle(bundle_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_once, tmp_path / "bundle"))


def flipped(raw: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[at] ^= 1 << bit
    return bytes(changed)


def test_a_flipped_byte_anywhere_is_caught_at_load(bundle: Path) -> None:
    """First, last and some bytes between, of every file; the manifest's own too."""
    rng = random.Random(7)
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        raw, name = path.read_bytes(), path.relative_to(bundle).as_posix()
        for at in {0, 7, 8, len(raw) - 1, *(rng.randrange(len(raw)) for _ in range(FLIPS))}:
            path.write_bytes(flipped(raw, at, rng.randrange(8)))
            with pytest.raises(NexusError) as caught:
                open_bundle(bundle)
            assert name in caught.value.message, (name, at)
        path.write_bytes(raw)
    assert check_bundle(bundle)


@pytest.mark.slow
def test_every_byte_of_every_file_counts(bundle: Path) -> None:
    """Each byte of the manifest with the reader of manifests, and of each other file with the reader of files."""
    manifest = bundle / "manifest.json"
    files, raw = read_manifest(bundle).files, manifest.read_bytes()
    rng = random.Random(8)
    for at in range(len(raw)):
        manifest.write_bytes(flipped(raw, at, rng.randrange(8)))
        with pytest.raises(DataError, match=r"manifest\.json"):
            read_manifest(bundle)
    for name in files:
        whole = (bundle / name).read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 500)):
            (bundle / name).write_bytes(flipped(whole, at, rng.randrange(8)))
            with pytest.raises(ModelError, match=name):
                check_file(bundle, name, files)
        (bundle / name).write_bytes(whole)


@pytest.mark.parametrize("whitespace", [b"\r", b"\t", b" ", b"\x0b", b"\x00"])
def test_other_whitespace_in_the_manifest_is_a_change(bundle: Path, whitespace: bytes) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"\n", whitespace, 1))
    with pytest.raises(DataError, match=r"manifest\.json"):
        open_bundle(bundle)


@pytest.mark.parametrize("share", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_named(bundle: Path, share: int) -> None:
    for name in ("adapters/tools_adapter.safetensors", "router/router.safetensors", "tokenizer/tokenizer.json"):
        raw = (bundle / name).read_bytes()
        (bundle / name).write_bytes(raw[:share])
        for verify in (True, False):
            if not verify and name.startswith("tokenizer"):
                continue  # nobody has asked for the tokenizer yet
            with pytest.raises(ModelError, match=name):
                open_bundle(bundle, verify)
        (bundle / name).write_bytes(raw)
    (bundle / "adapters/tools_adapter.safetensors").write_bytes(raw + b"more")
    with pytest.raises(ModelError, match="tools_adapter"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "adapters/../../outside.safetensors",
        "adapters/..",
        "/etc/passwd",
        "adapters//tools_adapter.safetensors",
        "adapters\\tools.safetensors",
        "C:/Windows/x.json",
        "adapters/sub/tools.safetensors",
        "adapters/.hidden.safetensors",
        "adapters/tools.safetensors\n",
        "adapters/tools.safetensors\x00.json",
        "adapters/model.bin",
        "tokenizer/tokenization.py",
        "tokenizer/training.pt",
        "extra/file.json",
        "manifest.json",
        "",
    ],
)
def test_a_name_that_is_none_of_a_bundle_is_refused(tiny: ModuleType, bundle: Path, name: str) -> None:
    (bundle.parent / "outside.safetensors").write_bytes(b"secret")
    facts = {"sha256": "00" * 32, "bytes": 6}
    tiny.edit(bundle, lambda m: m["files"].update({name: facts}))
    with pytest.raises(DataError, match="is no name of a bundle's file"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "adapter", ["../outside.safetensors", "/etc/passwd", "router/router.safetensors", "adapters/x"]
)
def test_an_adapter_lies_among_the_listed_ones(tiny: ModuleType, bundle: Path, adapter: str) -> None:
    tiny.edit(bundle, lambda m: m["capabilities"]["tools"].update(adapter=adapter))
    with pytest.raises(DataError, match="is no listed file"):
        open_bundle(bundle)


def test_a_link_is_refused_wherever_it_leads(bundle: Path) -> None:
    """Also to the very same bytes: who may change the target changes the bundle."""
    path = bundle / "adapters/tools_adapter.safetensors"
    path.rename(bundle.parent / "elsewhere.safetensors")
    path.symlink_to(bundle.parent / "elsewhere.safetensors")
    with pytest.raises(ModelError, match=r"tools_adapter\.safetensors is a symbolic link"):
        open_bundle(bundle)
    path.unlink()
    (bundle / "adapters").rename(bundle.parent / "adapters")
    (bundle / "adapters").symlink_to(bundle.parent / "adapters")
    with pytest.raises(ModelError, match="adapters is a symbolic link"):
        open_bundle(bundle)


def test_the_manifest_is_no_link(bundle: Path) -> None:
    (bundle / "manifest.json").rename(bundle.parent / "manifest.json")
    (bundle / "manifest.json").symlink_to(bundle.parent / "manifest.json")
    with pytest.raises(NexusError, match=r"manifest\.json"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "name", ["adapters/extra.safetensors", "run.py", ".hidden", "tokenizer/sub/x.json", "backbone/x"]
)
def test_an_unlisted_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(b"print(1)")
    with pytest.raises(ModelError, match=f"{name} is not listed"):
        open_bundle(bundle)


def test_a_pipe_is_not_waited_on(bundle: Path) -> None:
    path = bundle / "adapters/tools_adapter.safetensors"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelError, match="is no regular file"):
        open_bundle(bundle)
    path.unlink()
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    with pytest.raises(NexusError):
        open_bundle(bundle)


def test_a_directory_in_a_files_place(bundle: Path) -> None:
    (bundle / "router/router.safetensors").unlink()
    (bundle / "router/router.safetensors").mkdir()
    assert open_bundle(bundle).manifest.name, "an empty directory is no file, and the router has not been asked for"
    with pytest.raises(ModelError, match="the router is missing"):
        open_bundle(bundle).router()


def replace_header(raw: bytes, change: Callable[[dict[str, Any]], Any], length: int | None = None) -> bytes:
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    text = change(header)
    new = text.encode() if isinstance(text, str) else json.dumps(header).encode()
    return (len(new) if length is None else length).to_bytes(8, "little") + new + raw[8 + size :]


def first(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = header[sorted(name for name in header if name != "__metadata__")[0]]
    return entry


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], int | None]] = {
    "a huge length": (lambda h: None, 1 << 62),
    "a length beyond the file": (lambda h: None, 1 << 30),
    "a length of nothing": (lambda h: None, 0),
    "deep JSON": (lambda h: "[" * 50_000, None),
    "a list": (lambda h: "[1, 2]", None),
    "no JSON": (lambda h: "{]", None),
    "no UTF-8 text": (lambda h: "{\ud800}".encode("utf-8", "surrogatepass").decode("latin-1"), None),
    "the same name twice": (lambda h: json.dumps(h)[:-1] + ', "x": 1, "x": 2}', None),
    "an endless number": (lambda h: json.dumps(h)[:-1] + ', "x": ' + "9" * 10_000 + "}", None),
    "an unknown kind": (lambda h: first(h).update(dtype="PICKLE"), None),
    "a negative shape": (lambda h: first(h).update(shape=[-1, -1]), None),
    "a shape of gigabytes": (lambda h: first(h).update(shape=[1 << 40, 1 << 20]), None),
    "a shape of nothing": (lambda h: first(h).update(shape=[0, 1 << 62, 1 << 62]), None),
    "a thousand dimensions": (lambda h: first(h).update(shape=[*first(h)["shape"], *[1] * 1000]), None),
    "a shape of texts": (lambda h: first(h).update(shape=["4"]), None),
    "true as a number": (lambda h: first(h).update(data_offsets=[False, True]), None),
    "an offset beyond the file": (lambda h: first(h).update(data_offsets=[1 << 40, (1 << 40) + 4]), None),
    "an overlap": (lambda h: [entry.update(data_offsets=[0, 4], shape=[1], dtype="F32") for entry in h.values()], None),
    "a gap": (lambda h: h.pop(sorted(h)[0]), None),
    "more keys": (lambda h: first(h).update(run="rm -rf /"), None),
    "metadata that is no text": (lambda h: h.update(__metadata__={"format": [1]}), None),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_hostile_header_is_refused_before_anything_is_made_of_it(tiny: ModuleType, bundle: Path, header: str) -> None:
    """Listed with its hash, so that nothing but the header itself can give it away; and unchecked too."""
    path = bundle / "adapters/tools_adapter.safetensors"
    path.write_bytes(replace_header(path.read_bytes(), *HEADERS[header]))
    tiny.relist(bundle)
    for verify in (True, False):
        with pytest.raises(ModelError, match=r"tools_adapter\.safetensors is no safetensors file"):
            open_bundle(bundle, verify)


def test_a_changed_header_is_said_to_be_changed(bundle: Path) -> None:
    path = bundle / "adapters/tools_adapter.safetensors"
    raw = path.read_bytes()
    path.write_bytes(b"\xff" * 8 + raw[8:])
    with pytest.raises(ModelError, match=r"tools_adapter\.safetensors was changed"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00" * 100,
        b"\xff\xfe{}",
        b"[" * 1_000_000,
        b'{"a": ' * 200_000,
        b'{"seed": 1, "seed": 2}',
        b'{"seed": NaN}',
        b'{"seed": 1e999}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"[]",
        b"null",
        b" " * (17 << 20),
    ],
    ids=[
        "empty",
        "zeros",
        "no text",
        "deep lists",
        "deep objects",
        "twice",
        "nan",
        "inf",
        "long",
        "list",
        "null",
        "big",
    ],
)
def test_a_hostile_manifest_is_a_plain_error(bundle: Path, raw: bytes) -> None:
    (bundle / "manifest.json").write_bytes(raw)
    with pytest.raises(DataError, match=r"manifest\.json"):
        open_bundle(bundle)


def test_a_tokenizer_cannot_bring_code(tiny: ModuleType, bundle: Path) -> None:
    """Its class is one of transformers', whatever its config asks for."""
    path = bundle / "tokenizer/tokenizer_config.json"
    values = json.loads(path.read_text())
    witness = bundle.parent / "ran"
    (bundle.parent / "evil.py").write_text(f"open({str(witness)!r}, 'w')\nclass Evil: ...\n")
    path.write_text(
        json.dumps({**values, "tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )
    tiny.relist(bundle)
    opened = open_bundle(bundle)
    try:
        tokenizer = opened.tokenizer()
    except ModelError:
        pass
    else:
        assert type(tokenizer).__module__.startswith("transformers.")
    assert not witness.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 1 << 40},
        {"num_attention_heads": 0},
        {"vocab_size": "many"},
        {"hidden_act": "os.system"},
        {"rope_parameters": {"rope_type": "nonsense"}},
        {"num_hidden_layers": -1},
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "hidden_size": 33},
    ],
)
def test_a_config_that_is_not_the_planned_one_is_refused(
    tiny: ModuleType, bundle: Path, change: dict[str, Any]
) -> None:
    path = bundle / "backbone/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    tiny.relist(bundle)
    with pytest.raises(ModelError, match=r"config\.json"):
        open_bundle(bundle).model()


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 1 << 40},
        {"num_hidden_layers": 1_000_000_000},
        {"vocab_size": 1 << 60},
        {"hidden_act": "os.system"},
        {"rope_parameters": {"rope_type": "nonsense"}},
        {"_attn_implementation": "someone/kernels"},
        {"attn_implementation": "someone/kernels"},
        {"quantization_config": {"quant_method": "someones"}},
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
    ],
)
def test_a_hostile_config_that_was_planned_so_is_refused(
    tiny: ModuleType, bundle: Path, change: dict[str, Any]
) -> None:
    """The plan in the manifest says the same: its sizes are not believed before there are as many numbers."""
    path = bundle / "backbone/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    tiny.relist(bundle)
    tiny.edit(bundle, lambda m: m["student"]["backbone"].update(change))
    with pytest.raises(ModelError, match="backbone"):
        open_bundle(bundle).model()


@pytest.mark.parametrize("value", [1 << 50, -5])
@pytest.mark.parametrize("part", ["rank", "delta_rank", "buckets", "width"])
def test_a_plan_is_not_believed_before_the_file_has_as_many_numbers(
    tiny: ModuleType, bundle: Path, part: str, value: int
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        adapter = next(a for a in manifest["student"]["adapters"] if a["capability"] == "tools")
        where = {"rank": adapter["sites"][0], "delta_rank": adapter}.get(part, manifest["student"]["router"])
        where[part] = value

    tiny.edit(bundle, change)
    with pytest.raises(NexusError) as caught:
        opened = open_bundle(bundle)
        opened.router() if part in ("buckets", "width") else opened.add_adapter(opened.model(), "tools")
    assert "does not fit" in caught.value.message and "safetensors" in caught.value.message


def test_a_config_that_is_no_object(tiny: ModuleType, bundle: Path) -> None:
    for text in ("[]", "{", "[" * 100_000, "null"):
        (bundle / "backbone/config.json").write_text(text)
        tiny.relist(bundle)
        with pytest.raises(ModelError, match=r"config\.json"):
            open_bundle(bundle)
