"""The student's configuration: a Llama's, and which adapters and towers are built into it."""

from __future__ import annotations

from typing import Any, TypeVar

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

from nexus_core.errors import DataError
from nexus_core.strict import read_strict
from nexus_core.student.arch import AGAIN, AdapterArch, TowerArch

Arch = TypeVar("Arch", AdapterArch, TowerArch)


@strict
class NexusConfig(LlamaConfig):  # type: ignore[misc]  # transformers is untyped
    """`adapters` and `towers` are plain JSON by name: what `AdapterArch` and `TowerArch` hold."""

    model_type = "nexus"

    adapters: dict[str, Any] | None = None
    towers: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.adapters = dict(self.adapters or {})  # a copy: adding an adapter must not reach another model's config
        self.towers = dict(self.towers or {})
        super().__post_init__(**kwargs)

    def adapter_archs(self) -> list[AdapterArch]:
        """The adapters in their order, read strictly."""
        return [
            _named(name, arch.capability, arch)
            for name, raw in (self.adapters or {}).items()
            for arch in [read_strict(raw, AdapterArch, f"config.json: adapters.{name}", AGAIN)]
        ]

    def tower_archs(self) -> list[TowerArch]:
        """The towers in their order, read strictly."""
        return [
            _named(name, arch.name, arch)
            for name, raw in (self.towers or {}).items()
            for arch in [read_strict(raw, TowerArch, f"config.json: towers.{name}", AGAIN)]
        ]


def _named(name: str, inner: str, arch: Arch) -> Arch:
    if name != inner:
        raise DataError(f"config.json: what is listed as {name!r} calls itself {inner!r}", "restore the file")
    return arch
