"""Open a bundle: check everything first, keep what will be asked for, and read nothing twice.

Small parts (adapters, the router) are held as tensors from the moment of opening, so that a part which is asked for later
reads no disk. Isolated adapters are hashed at opening but not held: their file is read, and hashed again, when one is
asked for by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from nexus_core.bundle.build import check_size, empty_student, fill
from nexus_core.bundle.disk import RESTORE, check_file, json_object, read_bytes, read_manifest, survey
from nexus_core.bundle.manifest import BACKBONE as BACKBONE_FILE
from nexus_core.bundle.manifest import CONFIG, REPORT, ROUTER, TOKENIZER, Manifest, is_listed
from nexus_core.bundle.shards import files_of, read_sharded
from nexus_core.bundle.tensors import Tensors
from nexus_core.errors import ModelError, UsageError
from nexus_core.hf.check import all_finite
from nexus_core.student.arch import StudentArch, TowerArch
from nexus_core.student.assemble import Builder
from nexus_core.student.files import Student
from nexus_core.student.model import NexusForCausalLM
from nexus_core.student.router import SparseIntentRouter

PARTS = ("adapters/", "router/", "encoders/", "decoders/")


def open_bundle(path: Path, verify: bool = True) -> Bundle:
    """The bundle in a directory. With `verify`, each listed file that is there is hashed while it is read.

    A missing adapter, router, encoder or decoder is an error only when it is asked for; everything else is one here.
    """
    return Bundle(path, read_manifest(path), verify)


class Bundle:
    """An open bundle. Each part is built when it is asked for, from what was checked."""

    def __init__(self, path: Path, manifest: Manifest, verify: bool = True) -> None:
        self.path, self.manifest = path, manifest
        self._verify = verify
        self._there = survey(path, manifest)
        self._held: dict[str, Tensors] = {}
        self._router_plan = ""
        for name in sorted(set(manifest.files) - self._there):
            if not name.startswith(PARTS) and "/" in name:
                raise ModelError(f"{path / name} is missing", RESTORE)
        self._config = json_object(self._bytes(CONFIG), path / CONFIG)
        self._backbone: Tensors | None = self._read(BACKBONE_FILE)
        self._hold_parts()

    @property
    def arch(self) -> StudentArch:
        """What the student is made of."""
        return self.manifest.student

    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        from nexus_core.hf.tokenizer import load_tokenizer

        return load_tokenizer(self.path / TOKENIZER)

    def model(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> NexusForCausalLM:
        """The backbone, with no adapter and no tower on it."""
        stored = self._read(BACKBONE_FILE) if self._backbone is None else self._backbone
        self._backbone = None  # it is the model's from here; another model reads the file anew
        model = empty_student(self._config, self.arch, stored, self.path / CONFIG)
        fill(model, stored, self.manifest.quantisation, dtype, self.path / BACKBONE_FILE)
        model.to(device).eval()
        return model

    def add_adapter(self, model: NexusForCausalLM, capability: str, build: Builder | None = None) -> None:
        """Build one capability's adapter on the model, through its tower's plugin, with the bundle's weights.

        `build` is the plugin's hook, where the caller holds it already: finding the plugin reads the disk.
        """
        name = self.manifest.resolve(capability)
        facts, arch = self.manifest.capabilities[name], self.arch.adapter(name)
        stored = self._part(facts.adapter, f'the adapter of "{name}"')
        check_size([site.rank for site in arch.sites], model.config.hidden_size, stored, self.path / facts.adapter)
        check_size([arch.delta_rank] if arch.delta_rank else [], 1, stored, self.path / facts.adapter)
        tower = next((tower for tower in self.arch.towers if tower.name == arch.tower), None)
        if tower is not None and tower.name not in (model.config.towers or {}):
            self._add_tower(model, tower)
        adapter = model.add_adapter(arch, build, self.arch.seed)
        try:
            _copy(adapter.state_dict(), stored, self.path / facts.adapter)
            _check_finite(adapter.state_dict(), self.path / facts.adapter)
        except ModelError:
            model.remove_adapter(name)
            raise
        adapter.eval()

    def _add_tower(self, model: NexusForCausalLM, tower: TowerArch) -> None:
        file = f"encoders/{tower.name}_encoder.safetensors"
        stored = self._part(file, f'the tower "{tower.name}"') if tower.thought_tokens else {}
        if tower.thought_tokens:
            check_size([tower.thought_tokens, tower.feature_size], tower.latent_size, stored, self.path / file)
        model.add_tower(tower, self.arch.seed)
        own = {key: t for key, t in model.state_dict().items() if is_of_tower(key, tower.name)}
        _copy(own, stored, self.path / file)
        _check_finite(own, self.path / file)

    def router(self) -> SparseIntentRouter | None:
        """The router; None where the bundle was made without one."""
        if not is_listed(ROUTER, self.manifest.files):
            return None
        stored = self._part(ROUTER, "the router")
        check_size([self.arch.router.buckets], self.arch.router.width, stored, self.path / ROUTER)
        router = SparseIntentRouter(self.arch.router)
        _copy(router.state_dict(), stored, self.path / ROUTER)
        _check_finite(dict(router.named_parameters()), self.path / ROUTER)
        return router.eval()

    def student(self, capabilities: Collection[str] | None = None) -> Student:
        """The whole of it, or with these capabilities' adapters only: what is evaluated."""
        model = self.model()
        for name in self.manifest.capabilities if capabilities is None else capabilities:
            self.add_adapter(model, name)
        return Student(model, self.tokenizer(), self.arch, self.router())

    def report(self) -> Mapping[str, Any]:
        """verify_report.json."""
        return json_object(self._bytes(REPORT), self.path / REPORT)

    def text(self, name: str) -> str:
        """A text of the bundle (README.md, LICENSE, verify_report.json)."""
        if name not in self.manifest.files:
            raise UsageError(f"{self.path} has no {name}", f"it has: {', '.join(self.manifest.files)}")
        return self._bytes(name).decode("utf-8", "replace")

    def _bytes(self, name: str) -> bytes:
        return read_bytes(self.path, name, self.manifest.files, self._verify)

    def _read(self, name: str) -> Tensors:
        """Numbers only: what is none would come out as answers, which nobody can trace back to a file."""
        tensors = read_sharded(self.path, name, self.manifest.files, self._verify)
        # The router's floors are infinite while it is closed; the rest of it is checked when it is built.
        if name != ROUTER:
            _check_finite(tensors, self.path / name)
        return tensors

    def _hold_parts(self) -> None:
        """Read what may be asked for, hash the rest."""
        isolated = {facts.adapter for facts in self.manifest.capabilities.values() if facts.isolated}
        wanted = [facts.adapter for facts in self.manifest.capabilities.values() if not facts.isolated]
        wanted += [ROUTER, *(f"encoders/{tower.name}_encoder.safetensors" for tower in self.arch.towers)]
        for name in wanted:
            if self._is_there(name):
                self._held[name] = self._read(name)
        if self._verify:
            done = {
                CONFIG,
                *(file for name in [*wanted, BACKBONE_FILE] for file in files_of(name, self.manifest.files)),
            }
            for name in sorted(self._there - done):
                check_file(self.path, name, self.manifest.files)
        assert not isolated & set(self._held)

    def _is_there(self, name: str) -> bool:
        return is_listed(name, self.manifest.files) and set(files_of(name, self.manifest.files)) <= self._there

    def _part(self, name: str, what: str) -> Tensors:
        """What is held, or (an isolated adapter) the file."""
        if name in self._held:
            return self._held[name]
        if not self._is_there(name):
            raise ModelError(f"{self.path / name}: {what} is missing from this bundle", RESTORE)
        return self._read(name)


def is_of_tower(key: str, tower: str) -> bool:
    """Whether this is a tower's own weight, or one of its ports, by the student's names."""
    return key.startswith(f"towers.{tower}.") or f".ports.{tower}." in key


def _check_finite(tensors: Mapping[str, torch.Tensor], where: Path) -> None:
    """As they are stored, and again where they are cast: not every number fits into fewer bits."""
    if bad := [name for name, t in tensors.items() if t.is_floating_point() and not all_finite(t)]:
        raise ModelError(f"{where}: {bad[0]} holds NaN or infinity", RESTORE)


def _copy(own: Mapping[str, torch.Tensor], stored: Tensors, where: Path) -> None:
    """Into a module's tensors, which the file must fit in names and shapes; precision is the module's."""
    wrong = sorted(set(own) ^ set(stored)) or [name for name in own if own[name].shape != stored[name].shape]
    if wrong:
        raise ModelError(f"{where}: {wrong[0]} does not fit the student's plan", RESTORE)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(stored[name])
    if bad := [name for name, tensor in own.items() if tensor.isnan().any()]:
        raise ModelError(f"{where}: {bad[0]} holds NaN", RESTORE)
