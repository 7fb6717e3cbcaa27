"""Write a bundle: beside its place first, the manifest last, read back by a fresh process, and only then put in place.

The same student, report and seed give the same bytes: no time, no path of a machine, names in order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from nexus_core.atomic import check_writable, sync_directory, sync_tree, write_atomic, writing
from nexus_core.bundle.golden import check_reload
from nexus_core.bundle.manifest import (
    CONFIG,
    LICENSE,
    MANIFEST,
    NAME,
    README,
    REPORT,
    SHARD_LIMIT,
    TOKENIZER,
    CapabilityFacts,
    ContractFacts,
    FileFacts,
    Manifest,
    OptionFacts,
    Quantisation,
    ResultFacts,
    TeacherFacts,
    VoiceFacts,
    parse_manifest,
)
from nexus_core.bundle.readme import licence, readme
from nexus_core.bundle.shards import write_sharded
from nexus_core.bundle.stored import KINDS, adapter_file, as_stored, to_store
from nexus_core.draft import drafted
from nexus_core.errors import DataError, UsageError
from nexus_core.student.arch import StudentArch
from nexus_core.student.assemble import plain_config
from nexus_core.student.files import Student
from nexus_core.types import Contract

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class CapabilityParts:
    """What a bundle says about one capability. `prompts` are asked when the bundle is read back."""

    contract: Contract
    result: ResultFacts
    options: OptionFacts
    aliases: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class BundleParts:
    """All that goes into a bundle. `report` is the content of verify_report.json; a file above `shard_limit` is split."""

    student: Student
    capabilities: Mapping[str, CapabilityParts]
    report: Mapping[str, Any]
    teachers: tuple[TeacherFacts, ...] = ()
    created_with: Mapping[str, str] = field(default_factory=dict)
    name: str = NAME
    quantisation: str = "fp32"
    shard_limit: int = SHARD_LIMIT
    voice: VoiceFacts | None = None


def write_bundle(out: Path, parts: BundleParts) -> Manifest:
    """The bundle in `out`, or an error and `out` as it was."""
    check_place(out)
    old = out.with_name(f".{out.name}.old")
    with drafted(out) as draft:
        if old.exists() and not out.exists():  # a writer was killed between moving the old one away and the new one in
            old.rename(out)
        with writing(out):
            manifest, expected = write_files(draft, parts)
        check_reload(draft, expected, {name: own.prompts for name, own in parts.capabilities.items()})
        with writing(out):
            shutil.rmtree(old, ignore_errors=True)
            if out.exists():
                out.rename(old)
            draft.rename(out)
            sync_directory(out.parent)
    shutil.rmtree(old, ignore_errors=True)
    return manifest


def check_place(out: Path) -> None:
    """Only nothing, an empty directory or another bundle is replaced, where something can be written."""
    if out.name in ("", ".."):
        raise UsageError(
            f"{out} names no directory of its own", "name one by its own name, from the directory around it"
        )
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} is there, and is no directory", "name another place")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise UsageError(f"{out} is there, and is no bundle", "name an empty or a new directory")
    check_writable(out)


def write_files(folder: Path, parts: BundleParts) -> tuple[Manifest, Student]:
    """All files of a bundle in a new or empty folder, and the student that they hold."""
    if parts.quantisation not in KINDS:
        raise UsageError(f"there is no quantisation {parts.quantisation!r}", f"known are: {', '.join(KINDS)}")
    student = parts.student
    if different := sorted(set(student.model.adapters) ^ set(parts.capabilities)):
        raise DataError(f'"{different[0]}" is not both an adapter of the student and verified', "run `nexus verify`")
    files, how = to_store(student, parts.quantisation)
    folder.mkdir(parents=True, exist_ok=True)
    _write_backbone_config(folder, student, parts.quantisation)
    for name, tensors in files.items():
        write_sharded(folder, name, tensors, parts.shard_limit)
    student.tokenizer.save_pretrained(folder / TOKENIZER, save_jinja_files=False)
    _write_text(folder / REPORT, _json(parts.report))
    manifest = _manifest(parts, how)
    _write_text(folder / README, readme(manifest))
    _write_text(folder / LICENSE, licence(manifest))
    sync_tree(folder)
    manifest = replace(manifest, files=_facts(folder))
    raw = manifest.to_bytes()
    parse_manifest(raw, str(folder / MANIFEST))  # what the reader would refuse is not written
    write_atomic(folder / MANIFEST, raw)
    return manifest, as_stored(student, files, how)


def _manifest(parts: BundleParts, how: Quantisation) -> Manifest:
    arch = _portable(parts.student.arch)
    return Manifest(
        name=parts.name,
        created_with=dict(parts.created_with),
        seed=arch.seed,
        student=arch,
        quantisation=how,
        capabilities={
            adapter.capability: CapabilityFacts(
                adapter=adapter_file(adapter.capability),
                tower=adapter.tower,
                tier=parts.capabilities[adapter.capability].contract.tier,
                isolated=adapter.isolated,
                aliases=parts.capabilities[adapter.capability].aliases,
                contract=_contract(parts.capabilities[adapter.capability].contract),
                result=parts.capabilities[adapter.capability].result,
                options=parts.capabilities[adapter.capability].options,
            )
            for adapter in arch.adapters
        },
        files={},
        teachers=parts.teachers,
        voice=parts.voice,
    )


def _contract(contract: Contract) -> ContractFacts:
    return ContractFacts(
        metric=contract.metric,
        benchmark=contract.benchmark,
        direction=contract.direction.value,
        retain_fraction=contract.retain_fraction,
        minimum=contract.minimum,
    )


def _portable(arch: StudentArch) -> StudentArch:
    """A backbone that was named by a path is known by its directory's name elsewhere: paths are of one machine."""
    source = arch.backbone_source
    if "/" not in source and "\\" not in source:
        return arch
    name = Path(source).name
    decisions = tuple(
        replace(d, subject=d.subject.replace(source, name), reason=d.reason.replace(source, name))
        for d in arch.decisions
    )
    return replace(arch, backbone_source=name, decisions=decisions)


def _write_backbone_config(folder: Path, student: Student, kind: str) -> None:
    """A plain Llama's. The tokens that end an answer are the student's own, which its config need not have."""
    values = plain_config(student.model.config).to_diff_dict()
    values.pop("transformers_version", None)
    generation = student.model.generation_config
    ends = {name: getattr(generation, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    values |= {"architectures": ["LlamaForCausalLM"], "dtype": "float32" if kind == "fp32" else "float16", **ends}
    (folder / CONFIG).parent.mkdir()
    _write_text(folder / CONFIG, _json(values))


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write_text(where: Path, text: str) -> None:
    where.write_bytes(text.encode())


def _facts(folder: Path) -> dict[str, FileFacts]:
    """Of what lies on the disk, not of what was meant to."""
    found = {}
    for where in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = sha256()
        with where.open("rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
        found[where.relative_to(folder).as_posix()] = FileFacts(digest.hexdigest(), where.stat().st_size)
    return found
