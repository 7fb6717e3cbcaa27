"""The output directory of stage 2: one folder for each teacher and capability, the plans over all of them, a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nexus_core.atomic import Unwritable
from nexus_core.profiling.artifacts import journal
from nexus_core.profiling.artifacts.codec import decode, encode
from nexus_core.profiling.artifacts.formats import plain, read_json, write_json
from nexus_core.profiling.artifacts.layout import (
    CAPACITY,
    CONSTRAINTS,
    MANIFEST,
    PROTECTED,
    SCORES,
    ArtifactError,
    plan_file,
    profile_folder,
)
from nexus_core.profiling.artifacts.manifest import Entry, Manifest, ProfileEntry, read_manifest
from nexus_core.profiling.artifacts.scores import decode_reference, encode_reference
from nexus_core.profiling.artifacts.verify import Finding, FindingKind, extras, files_of, inspect, look, look_at_profile
from nexus_core.profiling.model import CapabilityProfile, Reference
from nexus_core.profiling.overlap import Overlap
from nexus_core.profiling.plan import (
    CapabilityPlan,
    capacity_entry,
    constraints_entry,
    micro_preservation,
    protected_entry,
)

_LOCK_SECONDS = 60.0  # a write takes well under one


@dataclass(frozen=True, slots=True)
class _TopLevel:
    """A file over all profiles: {section: {teacher: {capability: entry}}}, without a section for the plainest."""

    entry: Callable[[CapabilityPlan], dict[str, Any]]
    section: str | None

    def of(self, document: dict[str, Any]) -> dict[str, Any]:
        if self.section is None:
            return document
        section: dict[str, Any] = document.setdefault(self.section, {})
        return section


_DOCUMENTS = {
    PROTECTED: _TopLevel(protected_entry, None),
    CAPACITY: _TopLevel(capacity_entry, "teachers"),
    CONSTRAINTS: _TopLevel(constraints_entry, "teachers"),
}
_OVERLAPS = "overlaps"
_RESTORE = "restore it from a copy, or remove the directory and profile again"


class ProfileStore:
    """Profiles on disk. Every method sees, and leaves, a directory that fits together; a crash in between changes nothing.

    >>> store = ProfileStore(run / "niwt_stage2_output")
    >>> store.write(profile, plan_capability(profile, registry.contract("math", "ada"), PlanSettings.of(registry.profiling)))
    >>> store.read("ada", "math").blocks[0].pca.basis
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def profiles(self) -> tuple[tuple[str, str], ...]:
        """(teacher, capability) of every profile."""
        with self._open() as manifest:
            return tuple(sorted(manifest.profiles))

    def write(self, profile: CapabilityProfile, plan: CapabilityPlan) -> None:
        """Store a profile and its plan, in place of an earlier one of the same teacher, weights and capability."""
        key = (profile.teacher, profile.capability)
        if (*key, profile.weights_hash) != (plan.teacher, plan.capability, plan.weights_hash):
            raise ArtifactError(f"{profile_folder(*key)}: the plan is of another profile", "plan this profile")
        folder = profile_folder(*key)
        new = {f"{folder}/{name}": content for name, content in encode(profile).items()}
        new[plan_file(*key)] = _yaml(micro_preservation(plan))
        with self._open(create=True) as manifest:
            self._refuse_other_weights(manifest, profile)
            documents = self._documents(manifest)
            for name, kind in _DOCUMENTS.items():
                kind.of(documents[name]).setdefault(profile.teacher, {})[profile.capability] = kind.entry(plan)
            profiles = {**manifest.profiles, key: ProfileEntry(profile.weights_hash, float(profile.seconds))}
            # The scores stay: they depend on the teacher's weights and the verify split, not on how it was profiled.
            old = set(files_of(manifest, *key)) - {f"{folder}/{SCORES}"}
            self._commit(manifest, profiles, new, old, documents)

    def write_reference(self, reference: Reference) -> None:
        """Store a teacher's scores on the verify split beside its profile, in place of earlier ones."""
        key = (reference.teacher, reference.capability)
        path, content = f"{profile_folder(*key)}/{SCORES}", encode_reference(reference)
        with self._open() as manifest:
            self._entry(manifest, key, reference.weights_hash)
            self._commit(manifest, manifest.profiles, {path: content}, set(), self._documents(manifest))

    def reference(self, teacher: str, capability: str, weights_hash: str | None = None) -> Reference | None:
        """A teacher's scores on the verify split; None when the profile is there and they were not measured."""
        key = (teacher, capability)
        path = f"{profile_folder(*key)}/{SCORES}"
        with self._open() as manifest:
            entry = self._entry(manifest, key, weights_hash)
            if path not in manifest.files:
                return None
            content, finding = look(self.root, path, manifest.files[path], (*key, entry.weights_hash))
        if finding:
            raise ArtifactError(f"{self.root}: {finding}", "score this teacher again: nexus profile --reference-only")
        return decode_reference(str(self.root / path), content)

    def remove(self, teacher: str, capability: str | None = None) -> None:
        """Remove a teacher's profile of one capability, or all of its profiles, from every file."""
        with self._open() as manifest:
            gone = [key for key in manifest.profiles if key[0] == teacher and capability in (None, key[1])]
            if not gone:
                what = teacher if capability is None else f"{teacher}/{capability}"
                raise ArtifactError(f"{self.root} has no profile of {what}", self._known(manifest))
            documents = self._documents(manifest)
            for name, kind in _DOCUMENTS.items():
                for key in gone:
                    kind.of(documents[name]).setdefault(key[0], {}).pop(key[1], None)
                if not kind.of(documents[name])[teacher]:
                    del kind.of(documents[name])[teacher]
            lost = {path for key in gone for path in files_of(manifest, *key)}
            profiles = {key: entry for key, entry in manifest.profiles.items() if key not in gone}
            self._commit(manifest, profiles, {}, lost, documents)

    def write_overlaps(self, overlaps: Iterable[Overlap]) -> None:
        """Put the comparison of teachers, heavy or not, into the capacity plan, in place of the earlier one."""
        rows = sorted(overlaps, key=lambda o: (o.capability, o.teacher_a, o.teacher_b))
        with self._open() as manifest:
            documents = self._documents(manifest)
            documents[CAPACITY][_OVERLAPS] = [plain(row) for row in rows]
            self._commit(manifest, manifest.profiles, {}, set(), documents)

    def read(self, teacher: str, capability: str, weights_hash: str | None = None) -> CapabilityProfile:
        """A stored profile, at float16; refused when a file is not as written, or when it is of other weights."""
        key = (teacher, capability)
        folder = profile_folder(*key)
        with self._open() as manifest:
            entry = self._entry(manifest, key, weights_hash)
            files, findings = look_at_profile(self.root, manifest, key)
        if findings:
            more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
            raise ArtifactError(f"{self.root}: {findings[0]}{more}", "profile this teacher again")
        return decode(folder, files, entry.seconds)

    def plan_documents(self) -> dict[str, dict[str, Any]]:
        """The top-level files by name: protected subspaces, capacity plan, recovery constraints."""
        with self._open() as manifest:
            return self._documents(manifest)

    def verify(self, weights: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
        """Everything that is missing, corrupt, extra or foreign; nothing when all is well.

        `weights` gives the hash of the weights that a teacher has now, for the teachers that are at hand.
        """
        if not self.root.is_dir():
            raise ArtifactError(f"{self.root} is not a directory", "run `nexus profile` first")
        with self._locked():
            try:
                manifest = read_manifest(self.root)
                if manifest is None:
                    return (Finding(FindingKind.MISSING, MANIFEST, "it is not there"), *extras(self.root, None))
                return tuple(inspect(self.root, manifest, weights or {}))
            except ArtifactError as error:
                return (Finding(FindingKind.CORRUPT, MANIFEST, error.message), *extras(self.root, None))

    # --- inside the lock ---------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, create: bool = False) -> Iterator[Manifest]:
        if create:
            self.root.mkdir(parents=True, exist_ok=True)
        if not self.root.is_dir():
            raise ArtifactError(f"{self.root} is not a directory", "run `nexus profile` first")
        with self._locked():
            manifest = read_manifest(self.root)
            if manifest is None:
                stray = next(extras(self.root, None), None)
                if stray or not create:
                    what = f"{stray.path} but " if stray else ""
                    raise ArtifactError(f"{self.root} has {what}no {MANIFEST}", "profile into a new directory")
                manifest = Manifest()
            yield manifest

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not os.access(self.root, os.W_OK):  # nobody writes here: nothing to wait for, nothing to finish
            if journal.pending(self.root):
                raise ArtifactError(f"{self.root} holds an unfinished change and is read-only", "make it writable")
            yield
            return
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / ".lock", timeout=_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            message = f"{self.root} is in use by another process"
            raise ArtifactError(message, "wait for it, or profile into another directory") from error
        try:
            journal.recover(self.root)
            yield
        finally:
            lock.release()

    def _documents(self, manifest: Manifest) -> dict[str, dict[str, Any]]:
        documents: dict[str, dict[str, Any]] = {}
        for name in _DOCUMENTS:
            if not manifest.files and not manifest.profiles:
                documents[name] = {}
                continue
            content, finding = look(self.root, name, manifest.files.get(name))
            if finding:
                raise ArtifactError(f"{self.root}: {finding}", _RESTORE)
            documents[name] = read_json(name, content)
            section = _DOCUMENTS[name].of(documents[name])
            if not isinstance(section, dict) or not all(isinstance(row, dict) for row in section.values()):
                raise ArtifactError(f"{self.root / name} is damaged: it is not sorted by teacher", _RESTORE)
        return documents

    def _commit(
        self,
        manifest: Manifest,
        profiles: Mapping[tuple[str, str], ProfileEntry],
        new: Mapping[str, bytes],
        old: set[str],
        documents: Mapping[str, dict[str, Any]],
    ) -> None:
        """Write `new` in place of `old`, with the top-level files and, last, the manifest that fit."""
        write = dict(new)
        for name, kind in _DOCUMENTS.items():
            section = kind.of(documents[name])
            ordered = {teacher: dict(sorted(section[teacher].items())) for teacher in sorted(section)}
            section.clear()
            section.update(ordered)
            write[name] = write_json(documents[name])
        kept = {path: entry for path, entry in manifest.files.items() if path not in old}
        files = {**kept, **{path: Entry.of(content) for path, content in write.items()}}
        write[MANIFEST] = Manifest(files, profiles).encode()
        try:
            journal.commit(self.root, write, old - set(write))
        except (OSError, Unwritable) as error:
            reason = error.reason if isinstance(error, Unwritable) else error.strerror
            message = f"{self.root} cannot be written ({reason}); what it held is unchanged or can be completed"
            raise ArtifactError(message, "make room or correct the permissions, and profile again") from error

    def _entry(self, manifest: Manifest, key: tuple[str, str], weights_hash: str | None) -> ProfileEntry:
        """What the manifest says of a profile, which must be there and of these weights (None: of any)."""
        entry = manifest.profiles.get(key)
        if entry is None:
            raise ArtifactError(f"{self.root} has no profile of {'/'.join(key)}", self._known(manifest))
        if weights_hash is not None and entry.weights_hash != weights_hash:
            raise ArtifactError(
                f"{self.root / profile_folder(*key)} belongs to other weights of {key[0]}: {entry.weights_hash[:12]}, "
                f"not {weights_hash[:12]}",
                "profile this teacher again in a new run",
            )
        return entry

    def _refuse_other_weights(self, manifest: Manifest, profile: CapabilityProfile) -> None:
        for (teacher, capability), entry in manifest.profiles.items():
            if teacher == profile.teacher and entry.weights_hash != profile.weights_hash:
                raise ArtifactError(
                    f"{self.root / profile_folder(teacher, capability)} belongs to other weights of {teacher}: "
                    f"{entry.weights_hash[:12]}, not {profile.weights_hash[:12]}",
                    "profile into a new run, or remove the earlier profiles of this teacher",
                )

    def _known(self, manifest: Manifest) -> str:
        names = ", ".join("/".join(key) for key in sorted(manifest.profiles))
        return f"it has: {names or 'none'}"


def _yaml(value: Mapping[str, Any]) -> bytes:
    return yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=False, width=120).encode()
