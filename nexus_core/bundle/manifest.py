"""`manifest.json`: what is in a bundle, which contract each capability kept, and the hash of every file.

The text is canonical: the same values give the same bytes, and the reader accepts no other spelling of them. With the
hash of itself that the file carries, no byte of it can change unnoticed. It holds no time and no path of a machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from hashlib import sha256
from importlib.resources import files as resources
from typing import TYPE_CHECKING, Any, TypeVar

from nexus_core.errors import DataError, UsageError
from nexus_core.student.arch import StudentArch, arch_from
from nexus_core.suggest import did_you_mean

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

VERSION = 1
NAME = "nexus_bundle_v1"
SHARD_LIMIT = 10 * 10**9  # bytes of a file
MANIFEST, REPORT, README, LICENSE = "manifest.json", "verify_report.json", "README.md", "LICENSE"
CONFIG, BACKBONE, ROUTER = "backbone/config.json", "backbone/backbone.safetensors", "router/router.safetensors"
TOKENIZER, INDEX = "tokenizer/", ".index.json"
MAX_BYTES = 16 << 20  # a manifest of a thousand files has 200 KB
_FOLDERS = "backbone|adapters|router|encoders|decoders|tokenizer"
_NAME = re.compile(rf"(?:{REPORT}|{README}|{LICENSE}|(?:{_FOLDERS})/[A-Za-z0-9_-][A-Za-z0-9._-]{{0,199}})")
_KINDS = (".safetensors", ".json", ".txt", ".jinja", ".model")  # what may lie in the folders: nothing that runs
_RESTORE = "get the bundle again from where it came"
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file must be, to the byte."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ContractFacts:
    """What the capability had to keep, as registry.yaml said it."""

    metric: str
    benchmark: str
    direction: str
    retain_fraction: float | None
    minimum: float | None


@dataclass(frozen=True, slots=True)
class ResultFacts:
    """What the gate measured."""

    student_score: float
    teacher_score: float
    ratio: float | None
    n: int
    ci95: tuple[float, float] | None
    verdict: str


@dataclass(frozen=True, slots=True)
class OptionFacts:
    """How the capability's answers were generated when they were verified."""

    max_new_tokens: int
    stop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CapabilityFacts:
    """One capability; `adapter` is the name of its file."""

    adapter: str
    tower: str
    tier: int
    isolated: bool
    aliases: tuple[str, ...]
    contract: ContractFacts
    result: ResultFacts
    options: OptionFacts


@dataclass(frozen=True, slots=True)
class TeacherFacts:
    """A teacher of the run: which weights, under which licence, and what became of it."""

    id: str
    weights_sha256: str | None
    licence: str
    fate: str


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How weights are stored. `tensors` are those of the backbone that are packed; `block_size` is NF4's."""

    kind: str
    block_size: int | None = None
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VoiceFacts:
    """What may be expected of the voice, and which decoder speaks."""

    mode: str
    decoder: str
    expected_retention: str
    notes: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of it. `created_with` are versions by distribution; `files` has every file but this one."""

    name: str
    created_with: Mapping[str, str]
    seed: int
    student: StudentArch
    quantisation: Quantisation
    capabilities: Mapping[str, CapabilityFacts]
    files: Mapping[str, FileFacts]
    teachers: tuple[TeacherFacts, ...] = ()
    voice: VoiceFacts | None = None
    format_version: int = VERSION

    def resolve(self, name: str) -> str:
        """The capability called so, or that has it for an alias; `long-context` and `long_context` are one name."""
        wanted = name.replace("-", "_")
        known = {alias: own for own, facts in self.capabilities.items() for alias in facts.aliases}
        known |= {own: own for own in self.capabilities}
        if wanted not in known:
            raise UsageError(
                f'the bundle has no capability "{name}"{did_you_mean(wanted, known)}',
                f"it has: {', '.join(self.capabilities)}",
            )
        return known[wanted]

    def to_bytes(self) -> bytes:
        """The canonical text, with its own hash in it."""
        return canonical(asdict(self))

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        values: dict[str, Any] = json.loads(self.to_bytes())
        return values


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Strictly: `DataError` names the key that is wrong."""
    values = _json(raw, where)
    if isinstance(values, dict) and values.get("format_version", VERSION) != VERSION:
        raise DataError(
            f"{where}: format_version {values['format_version']!r} is not known",
            f"this Nexus reads version {VERSION}; update it",
        )
    _check_shape(values, where)
    _check_names(values["files"], where)
    manifest = Manifest(
        **{
            **{key: value for key, value in values.items() if key != "sha256"},
            "student": arch_from(values["student"], f"{where}: student"),
            "quantisation": _build(values["quantisation"], Quantisation),
            "capabilities": {name: _capability(facts) for name, facts in values["capabilities"].items()},
            "files": {name: FileFacts(**facts) for name, facts in values["files"].items()},
            "teachers": tuple(TeacherFacts(**teacher) for teacher in values["teachers"]),
            "voice": None if values["voice"] is None else VoiceFacts(**values["voice"]),
        }
    )
    check_whole(manifest, where)
    if manifest.to_bytes() != raw:
        raise DataError(f"{where}: its text was changed after it was written", _RESTORE)
    return manifest


def check_whole(manifest: Manifest, where: str) -> None:
    """The parts belong together: each adapter of the student is a capability, and a file that is listed."""
    planned = {arch.capability: arch for arch in manifest.student.adapters}
    if different := sorted(set(planned) ^ set(manifest.capabilities)):
        raise DataError(f'{where}: "{different[0]}" is not both a capability and an adapter of the student', _RESTORE)
    names: dict[str, str] = {}
    for name, facts in manifest.capabilities.items():
        if (facts.tower, facts.isolated) != (planned[name].tower, planned[name].isolated):
            raise DataError(f'{where}: capability "{name}" differs from its adapter in the student', _RESTORE)
        if not is_listed(facts.adapter, manifest.files) or not facts.adapter.startswith("adapters/"):
            raise DataError(f'{where}: the adapter {facts.adapter!r} of "{name}" is no listed file', _RESTORE)
        for alias in (name, *facts.aliases):
            if names.setdefault(alias, name) != name:
                raise DataError(f'{where}: "{alias}" names {names[alias]} and {name}', _RESTORE)
    for needed in (CONFIG, REPORT, README):
        if needed not in manifest.files:
            raise DataError(f"{where}: files: {needed!r} is missing", _RESTORE)
    if not is_listed(BACKBONE, manifest.files):
        raise DataError(f"{where}: files: {BACKBONE!r} is missing", _RESTORE)
    if not any(name.startswith(TOKENIZER) for name in manifest.files):
        raise DataError(f"{where}: files: there is no tokenizer", _RESTORE)


def canonical(values: Mapping[str, Any]) -> bytes:
    """The one text of these values, which ends with their hash in it."""
    body = {key: value for key, value in values.items() if key != "sha256"}
    return _text({**body, "sha256": sha256(_text(body)).hexdigest()})


def is_listed(name: str, files: Mapping[str, FileFacts]) -> bool:
    """Whether these tensors are listed, in one file or as shards with an index."""
    return name in files or name + INDEX in files


def _json(raw: bytes, where: str) -> Any:
    if len(raw) > MAX_BYTES:
        raise DataError(f"{where}: {len(raw):,} bytes is no manifest", _RESTORE)
    try:
        return json.loads(raw.decode("ascii"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise DataError(f"{where}: no manifest ({type(error).__name__}: {str(error)[:200]})", _RESTORE) from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands there twice")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    schema = json.loads(resources("nexus_core.bundle").joinpath("manifest_schema.json").read_text("utf-8"))
    return Draft202012Validator(schema)


def _check_shape(values: Any, where: str) -> None:
    error = next(iter(sorted(_validator().iter_errors(values), key=lambda error: list(map(str, error.path)))), None)
    if error is not None:
        key = ".".join(map(str, error.absolute_path))
        raise DataError(f"{where}: {f'{key}: ' if key else ''}{error.message[:300]}", _RESTORE)


def _check_names(names: Mapping[str, Any], where: str) -> None:
    """A name that is no plain one of the layout could leave the bundle, or be a file that runs."""
    for name in names:
        inside = "/" in name
        if not _NAME.fullmatch(name) or (inside and not name.endswith(_KINDS)):
            raise DataError(f"{where}: files: {name!r} is no name of a bundle's file", _RESTORE)


def _capability(raw: Mapping[str, Any]) -> CapabilityFacts:
    parts = {
        "contract": ContractFacts(**raw["contract"]),
        "result": _build(raw["result"], ResultFacts),
        "options": _build(raw["options"], OptionFacts),
    }
    return _build({**raw, **parts}, CapabilityFacts)


def _build(raw: Mapping[str, Any], cls: type[Part]) -> Part:
    """JSON's lists are tuples in frozen values."""
    return cls(**{f: tuple(raw[f]) if isinstance(raw[f], list) else raw[f] for f in _names(cls)})


def _names(cls: type) -> list[str]:
    return [field.name for field in fields(cls)]


def _text(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("ascii")
