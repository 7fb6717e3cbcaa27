"""The student: a Llama-layout backbone that is always on, one adapter per capability, and ports for the towers.

With nothing chosen and no thoughts given, it runs the operations of transformers' `LlamaForCausalLM` and nothing else.
Importing this module registers it with AutoConfig and AutoModelForCausalLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaModel

from nexus_core.errors import ModelError, UsageError
from nexus_core.hf.check import check_finite, check_loaded
from nexus_core.hf.files import refuse_unsafe
from nexus_core.hf.quiet import quiet
from nexus_core.student import assemble, export
from nexus_core.student.arch import AdapterArch, StudentArch, TowerArch
from nexus_core.student.assemble import SEED, Adapter, Builder
from nexus_core.student.config import NexusConfig
from nexus_core.student.layer import NexusDecoderLayer, Recorded
from nexus_core.suggest import did_you_mean

Tensors = Mapping[str, torch.Tensor]
Part = TypeVar("Part", bound=nn.Module)


class NexusModel(LlamaModel):  # type: ignore[misc]  # transformers is untyped
    """`LlamaModel` of the student's blocks."""

    layers: nn.ModuleList

    def __init__(self, config: NexusConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList([NexusDecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.post_init()

    def forward(self, *args: Any, thoughts: Tensors | None = None, **kwargs: Any) -> Any:
        """`thoughts` are (B, N, latent) by tower; `thoughts_mask` (B, N) by tower is true where one is real."""
        if thoughts:
            with_port = {tower for layer in self.layers for tower in cast(NexusDecoderLayer, layer).ports}
            if strangers := sorted(set(thoughts) - with_port):
                close = did_you_mean(strangers[0], with_port)
                listed = ", ".join(sorted(with_port)) or "none"
                raise UsageError(
                    f'no port listens to the tower "{strangers[0]}"{close}', f"towers with ports: {listed}"
                )
            kwargs["thoughts"] = thoughts
        return super().forward(*args, **kwargs)


class NexusForCausalLM(LlamaForCausalLM):  # type: ignore[misc]  # transformers is untyped
    """`build` makes the adapters that the configuration lists (the towers' plugins do, unless it is given)."""

    config_class = NexusConfig
    _no_split_modules = ["NexusDecoderLayer"]  # noqa: RUF012 - transformers reads it from the class

    def __init__(
        self, config: NexusConfig, build: Builder | None = None, encoders: Mapping[str, nn.Module] | None = None
    ) -> None:
        super(LlamaForCausalLM, self).__init__(config)
        self.model = NexusModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
        # Built after post_init, which would draw their weights anew: they start from their own seeds.
        self.adapters = nn.ModuleDict()
        self.towers = nn.ModuleDict()
        self._chosen: str | None = None
        for tower in config.tower_archs():
            self.add_tower(tower, encoder=(encoders or {}).get(tower.name))
        for adapter in config.adapter_archs():
            self.add_adapter(adapter, build)

    @property
    def blocks(self) -> list[NexusDecoderLayer]:
        """The backbone's blocks in order."""
        return [cast(NexusDecoderLayer, layer) for layer in self.model.layers]

    # --- what it is made of -------------------------------------------------------------------------------------

    def add_adapter(self, arch: AdapterArch, build: Builder | None = None, seed: int = SEED) -> Adapter:
        """A new, untrained adapter, which changes no bit of anything until it is trained. Nothing else is touched."""
        assemble.refuse_name(arch.capability, self.adapters, "an adapter")
        adapter = assemble.build_adapter(self.blocks, arch, build or assemble.by_plugin(arch.tower), seed)
        self.adapters[arch.capability] = self._fitted(adapter)
        self.config.adapters[arch.capability] = assemble.as_json(arch)
        return adapter

    def remove_adapter(self, capability: str) -> None:
        """Take an adapter out; what remains computes what it computed before."""
        self._adapter(capability)
        if self._chosen == capability:
            self.choose(None)
        del self.adapters[capability]
        del self.config.adapters[capability]

    def add_tower(self, arch: TowerArch, seed: int = SEED, encoder: nn.Module | None = None) -> None:
        """A new tower with its closed ports. One without thought tokens speaks in the backbone's own, and has neither."""
        assemble.refuse_name(arch.name, self.towers, "a tower")
        if arch.thought_tokens:
            tower, ports = assemble.build_tower(len(self.blocks), self.config.hidden_size, arch, seed, encoder)
            self.towers[arch.name] = self._fitted(tower)
            for block, port in ports.items():
                self.blocks[block].ports[arch.name] = self._fitted(port)
        self.config.towers[arch.name] = assemble.as_json(arch)

    def _fitted(self, module: Part) -> Part:
        """In the mode, the precision and, once the weights are there, the place of the backbone."""
        weight = self.lm_head.weight
        device = None if weight.is_meta else weight.device
        return module.to(device=device, dtype=weight.dtype).train(self.training)

    def backbone_state(self) -> dict[str, torch.Tensor]:
        """The weights of the plain model, under its names."""
        own = ("adapters.", "towers.")
        state = self.state_dict()
        return {name: t for name, t in state.items() if not name.startswith(own) and ".ports." not in name}

    # --- which adapter answers ----------------------------------------------------------------------------------

    @property
    def chosen(self) -> str | None:
        """The capability whose adapter is in use; None is the plain backbone."""
        return self._chosen

    def choose(self, capability: str | None, allow_isolated: bool = False) -> None:
        """Answer with this capability's adapter from now on. An isolated one is never chosen unless that is said twice."""
        if capability is not None and self._adapter(capability).arch.isolated and not allow_isolated:
            raise UsageError(f'the adapter "{capability}" is isolated', "ask for it with allow_isolated=True")
        self._put(capability)

    @contextmanager
    def using(self, capability: str | None, allow_isolated: bool = False) -> Iterator[NexusForCausalLM]:
        """`choose` inside the block; what was chosen before comes back after it."""
        before = self._chosen
        self.choose(capability, allow_isolated)
        try:
            yield self
        finally:
            self._put(before if before is not None and before in self.adapters else None)

    def _put(self, capability: str | None) -> None:
        adapter = None if capability is None else self._adapter(capability)
        for index, layer in enumerate(self.blocks):
            layer.choose(None if adapter is None else adapter.site(index))
            for name, projection in assemble.projections(layer):
                projection.choose(None if adapter is None else adapter.delta(index, name))
        self._chosen = capability

    def _adapter(self, capability: str) -> Adapter:
        if capability not in self.adapters:
            close = did_you_mean(capability, self.adapters)
            raise UsageError(
                f'the student has no adapter for "{capability}"{close}', f"it has: {', '.join(self.adapters) or 'none'}"
            )
        adapter = self.adapters[capability]
        assert isinstance(adapter, Adapter)
        return adapter

    @contextmanager
    def recording(self) -> Iterator[Recorded]:
        """Inside the block each forward pass leaves the chosen bottlenecks' coordinates (B, T, rank) here, by block."""
        seen: Recorded = {}
        for layer in self.blocks:
            layer.record(seen)
        try:
            yield seen
        finally:
            for layer in self.blocks:
                layer.record(None)

    # --- generation with thoughts -------------------------------------------------------------------------------

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        thoughts: Tensors | None = None,
        thoughts_mask: Tensors | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Thoughts are the same at every step. (transformers looks for a parameter called `kwargs`.)"""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        return inputs | {"thoughts": thoughts, "thoughts_mask": thoughts_mask}

    def _expand_inputs_for_generation(self, expand_size: int = 1, **rest: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        """Beams: transformers repeats tensors, and these are tensors in a dictionary."""
        for name in ("thoughts", "thoughts_mask"):
            if rest.get(name):
                rest[name] = {tower: t.repeat_interleave(expand_size, dim=0) for tower, t in rest[name].items()}
        ids, inputs = super()._expand_inputs_for_generation(expand_size=expand_size, **rest)
        return ids, inputs

    # --- from and to files --------------------------------------------------------------------------------------

    @classmethod
    def from_backbone(
        cls, source: str | Path | LlamaForCausalLM | None, arch: StudentArch, build: Builder | None = None
    ) -> NexusForCausalLM:
        """A new student as planned, on the weights of a plain model or its directory; None: random ones, from the seed."""
        plain = assemble.plain_backbone(source, arch)
        with assemble.apart():
            student: NexusForCausalLM = cls(assemble.config_from(plain.config))
        assemble.copy_weights(plain, student)
        for tower in arch.towers:
            student.add_tower(tower, arch.seed)
        for adapter in arch.adapters:
            student.add_adapter(adapter, build, arch.seed)
        student.eval()
        return student

    def plain(self) -> LlamaForCausalLM:
        """The backbone alone, as an ordinary model with weights of its own."""
        with assemble.apart():
            model = LlamaForCausalLM(assemble.plain_config(self.config))
        assemble.copy_weights(self, model, self.backbone_state())
        return model.train(self.training)

    def peft_state(self, capability: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """An adapter's deltas as `peft` writes them; see `nexus_core.student.export`."""
        return export.peft_state(self._adapter(capability))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """From a directory that `save_pretrained` wrote. A tensor that is missing, or that nobody knows, is an error."""
        path = Path(pretrained_model_name_or_path)
        if not path.is_dir():
            raise ModelError(f"{path}: no such directory", "a student is loaded from a local directory")
        refuse_unsafe(path)
        told = kwargs.pop("output_loading_info", False)
        safe = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
        # With mismatched sizes ignored, the report names them all, and `check_loaded` makes them an error.
        reporting = {"ignore_mismatched_sizes": True, "output_loading_info": True}
        with quiet():
            model, report = super().from_pretrained(path, *args, **{**kwargs, **safe, **reporting})
        if unknown := check_loaded(path, report):
            raise ModelError(
                f"{path}: holds tensors that this student has no place for: {', '.join(unknown[:5])}",
                "config.json is another student's, or an encoder was not given (encoders={tower: module})",
            )
        check_finite(path, model)
        for parameter in model.parameters():
            # A safetensors file is mapped as it lies, and kernels round by alignment: in memory of its own, a student
            # that was loaded computes bit for bit what the one that was saved did.
            parameter.data = parameter.data.clone()
        return (model, report) if told else model


NexusStudent = NexusForCausalLM
AutoConfig.register(NexusConfig.model_type, NexusConfig)
AutoModelForCausalLM.register(NexusConfig, NexusForCausalLM)
