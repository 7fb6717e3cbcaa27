import struct

import pytest
from nexus_teacher_gguf.conformance import write_tiny_llama
from nexus_teacher_gguf.header import architecture

from nexus_core.errors import ModelError


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def pair(key: bytes, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", 8) + string(value)


HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)


def test_reads_what_the_writer_wrote(tmp_path):
    write_tiny_llama(tmp_path / "tiny.gguf")
    assert architecture(tmp_path / "tiny.gguf") == "llama"


def test_architecture_need_not_come_first(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(HEAD + pair(b"general.name", b"any") + pair(b"general.architecture", b"qwen2"))
    assert architecture(path) == "qwen2"


def test_another_file_is_none(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"safetensors, in truth")
    assert architecture(path) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF", "ends inside"),
        (b"GGUF" + struct.pack("<IQQ", 99, 0, 1), "version 99"),
        (HEAD + struct.pack("<Q", 1 << 60), "a string of"),
        (HEAD + string(b"\xff\xfe"), "damaged"),
        (HEAD + string(b"general.tags") + struct.pack("<I", 9), "names no architecture"),
        (HEAD, "ends inside"),
    ],
)
def test_damage_is_named(tmp_path, content, message):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        architecture(path)
