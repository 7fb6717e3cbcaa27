"""Bytes of the three formats: npz without pickles, JSON without NaN, JSON lines. The same content gives the same bytes."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.lib import format as npy

from nexus_core.profiling.artifacts.layout import ArtifactError
from nexus_core.profiling.pca import Array

MAX_MEMBER = 1 << 30  # bytes of one array: 30 times the largest basis that profiling makes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip: the time of writing is no content
# numpy's own parser evaluates the header as a Python literal, and has its ways to fail; what we write needs no parser.
_HEADER = re.compile(r"\{'descr': '<([fU]\d{1,6})', 'fortran_order': False, 'shape': \(([\d, ]{0,40})\), \} *\n")
_NOT_FINITE = {"not a number": math.nan, "infinite": math.inf, "minus infinite": -math.inf}
T = TypeVar("T")


def write_npz(arrays: Mapping[str, Array]) -> bytes:
    """As `np.savez_compressed(..., allow_pickle=False)`, with the date fixed whatever numpy's version does."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            npy.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def read_npz(name: str, content: bytes, expected: Mapping[str, tuple[str, int]]) -> dict[str, Array]:
    """Arrays of a npz file; `expected` gives each one's dtype kind and size ("f2") and its number of dimensions.

    Every header is checked before an array is allocated, so that a small file cannot ask for a large memory.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if sorted(members) != sorted(f"{key}.npy" for key in expected):
                raise ArtifactError(f"{name} holds {sorted(members)}, not {sorted(expected)}")
            return {key: _member(archive, members[f"{key}.npy"], *expected[key]) for key in expected}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ArtifactError(f"{name} is damaged: {error}", "profile this teacher again") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, kind: str, ndim: int) -> Array:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is compressed in an unknown way")
    with archive.open(info) as file:
        prefix = file.read(10)
        header = _HEADER.fullmatch(file.read(int.from_bytes(prefix[8:], "little")).decode("latin-1"))
        if prefix[:8] != b"\x93NUMPY\x01\x00" or header is None:
            raise ValueError(f"{info.filename} does not begin as numpy begins it")
        shape = tuple(map(int, header[2].replace(",", " ").split()))
        if not header[1].startswith(kind) or len(shape) != ndim:
            raise ValueError(f"{info.filename} is {header[1]} of shape {shape}")
        dtype = np.dtype(f"<{header[1]}")
        size = math.prod(shape) * dtype.itemsize
        if size > MAX_MEMBER or info.file_size != file.tell() + size:
            raise ValueError(f"{info.filename} does not have the size of its shape {shape}")
        raw = file.read(size)
        if file.read(1):  # also makes zipfile compare the checksum
            raise ValueError(f"{info.filename} is longer than its shape {shape}")
    return np.frombuffer(raw, dtype).reshape(shape)


def write_json(value: Any) -> bytes:
    """Readable JSON. A number that is not finite is null, with the reason beside it.

    In ASCII, because a teacher may write half of a surrogate pair.
    """
    return (json.dumps(plain(value), indent=1, allow_nan=False) + "\n").encode()


def write_lines(rows: list[Any]) -> bytes:
    """One JSON value per line."""
    return "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows).encode()


def read_json(name: str, content: bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} is not JSON: {error}", "profile this teacher again") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{name} is not a JSON object", "profile this teacher again")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def plain(value: Any) -> Any:
    """Dataclasses as objects, tuples as lists, and {"drop": null, "drop_reason": "not a number"} for a NaN."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, item in value.items():
            found[str(key)] = plain(item)
            if reason := _why_not_finite(item):
                found[f"{key}_reason"] = reason
        return found
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if _why_not_finite(value) else value


def _why_not_finite(value: Any) -> str:
    if not isinstance(value, float | np.floating) or math.isfinite(value):
        return ""
    if math.isnan(value):
        return "not a number"
    return "infinite" if value > 0 else "minus infinite"


def restore(cls: type[T], data: Mapping[str, Any]) -> T:
    """The flat dataclass that `plain` was given; ValueError when a field is missing or of another type."""
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in fields(cls):  # type: ignore[arg-type]
        value = data[field.name]
        reason = data.get(f"{field.name}_reason")
        if value is None and reason in _NOT_FINITE:
            value = _NOT_FINITE[reason]
        hint = hints[field.name]
        if hint is float and type(value) is int:
            value = float(value)
        if isinstance(hint, type) and hint in (int, float, str, bool) and type(value) is not hint:
            raise ValueError(f"{field.name} is {value!r:.40}, not {hint.__name__}")
        values[field.name] = value
    return cls(**values)
