"""How a student is put together: adapters, deltas and ports on its blocks, and the way to and from a plain Llama."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from nexus_core.errors import DataError, ModelError, UsageError
from nexus_core.hf.check import check_finite, check_loaded
from nexus_core.hf.files import refuse_unsafe
from nexus_core.hf.quiet import quiet
from nexus_core.student.arch import AdapterArch, StudentArch, TowerArch
from nexus_core.student.config import NexusConfig
from nexus_core.student.deltas import DeltaLinear, LowRankDelta
from nexus_core.student.ports import NexusCrossAttention
from nexus_core.student.towers import ThoughtTower
from nexus_core.types import AdapterPlan

Builder = Callable[[AdapterPlan], nn.Module]
SEED = 42


class Adapter(nn.Module):
    """What one capability adds: bottlenecks by block, low-rank deltas by projection ("0__self_attn__q_proj")."""

    def __init__(self, arch: AdapterArch, sites: Mapping[str, nn.Module], deltas: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.arch = arch
        self.sites = nn.ModuleDict(sites)
        self.deltas = nn.ModuleDict(deltas)

    def site(self, block: int) -> nn.Module | None:
        """The bottleneck after this block."""
        return dict(self.sites.items()).get(str(block))

    def delta(self, block: int, projection: str) -> LowRankDelta | None:
        """The delta on this projection of this block."""
        key = delta_key(block, projection)
        return cast(LowRankDelta, self.deltas[key]) if key in self.deltas else None

    def placed_deltas(self) -> Iterator[tuple[int, str, LowRankDelta]]:
        """Each delta with its block and its projection's dotted name in the block."""
        for key, delta in self.deltas.items():
            block, _, name = key.partition("__")
            yield int(block), name.replace("__", "."), cast(LowRankDelta, delta)


def by_plugin(tower: str) -> Builder:
    """The hook of the tower's plugin, which is looked for at the first adapter."""

    def build(plan: AdapterPlan) -> nn.Module:
        from nexus_core.plugins import Plugins

        return Plugins([tower]).build_adapter(plan)

    return build


def build_adapter(layers: Iterable[nn.Module], arch: AdapterArch, build: Builder, seed: int) -> Adapter:
    """An untrained adapter. Its weights depend on the seed, its capability and its places alone."""
    blocks = list(layers)
    for site in arch.sites:
        _check_block(site.block, len(blocks), f'adapter "{arch.capability}"')
    width = cast(int, cast(Any, blocks[0]).hidden_size)
    with apart():
        sites = {
            str(site.block): build(
                AdapterPlan(
                    capability=arch.capability,
                    tower=arch.tower,
                    hidden_size=width,
                    rank=site.rank,
                    block=site.block,
                    seed=derived(seed, arch.capability, site.block),
                )
            )
            for site in arch.sites
        }
        deltas = dict(_deltas(blocks, arch, seed)) if arch.delta_rank else {}
    return Adapter(arch, sites, deltas)


def _deltas(blocks: list[nn.Module], arch: AdapterArch, seed: int) -> Iterator[tuple[str, LowRankDelta]]:
    """One for each projection that a target names: by its name, or by its dotted name in the block."""
    known = [name for name, _ in projections(blocks[0])]
    for target in arch.delta_targets:
        if not any(_names(target, name) for name in known):
            raise DataError(
                f'adapter "{arch.capability}": no projection is called {target!r}', f"a block has: {', '.join(known)}"
            )
    for index, block in enumerate(blocks):
        for name, linear in projections(block):
            if any(_names(target, name) for target in arch.delta_targets):
                key = delta_key(index, name)
                own = derived(seed, arch.capability, key)
                yield key, LowRankDelta(linear.in_features, linear.out_features, arch.delta_rank, own)


def _names(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def projections(block: nn.Module) -> list[tuple[str, DeltaLinear]]:
    """The projections of a block that a delta can sit on, by dotted name."""
    return [(name, module) for name, module in block.named_modules() if isinstance(module, DeltaLinear)]


def delta_key(block: int, name: str) -> str:
    """A ModuleDict's keys hold no dots."""
    return f"{block}__{name.replace('.', '__')}"


def build_tower(
    blocks: int, width: int, arch: TowerArch, seed: int, encoder: nn.Module | None
) -> tuple[ThoughtTower, dict[int, NexusCrossAttention]]:
    """A tower's resampler, and its port for each block that has one."""
    ports = {}
    with apart():
        tower = ThoughtTower(arch, derived(seed, arch.name), encoder)
        for block in arch.port_blocks:
            _check_block(block, blocks, f'tower "{arch.name}"')
            ports[block] = NexusCrossAttention(
                width, arch.latent_size, arch.port_heads, arch.port_head_dim, derived(seed, arch.name, block)
            )
    return tower, ports


def _check_block(block: int, count: int, whose: str) -> None:
    if not 0 <= block < count:
        raise DataError(f"{whose}: there is no block {block}", f"the student's blocks are 0 to {count - 1}")


@contextmanager
def apart() -> Iterator[None]:
    """Building draws nothing from the caller's random state, and gives real tensors where transformers has none yet."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        yield


def derived(seed: int, *names: str | int) -> int:
    """A seed of its own for each part, which does not depend on what else is built."""
    return int.from_bytes(sha256("/".join(map(str, (seed, *names))).encode()).digest()[:4], "big")


def refuse_name(name: str, taken: nn.ModuleDict, what: str) -> None:
    """A name is a key of a ModuleDict and a part of tensor names."""
    if name in taken:
        raise UsageError(f'the student already has {what} called "{name}"', "remove it first")
    if not name.isidentifier() or hasattr(taken, name):
        raise UsageError(f'"{name}" cannot be the name of {what}', "use letters, digits and underscores")


def as_json(arch: AdapterArch | TowerArch) -> dict[str, Any]:
    """As it is read back from config.json."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(arch)))
    return values


# --- to and from a plain Llama ----------------------------------------------------------------------------------

_OWN = ("model_type", "architectures", "transformers_version", "adapters", "towers")


def config_from(plain: LlamaConfig) -> NexusConfig:
    """A student's configuration on a plain model's."""
    config = NexusConfig(**_shared(plain))
    config._attn_implementation = plain._attn_implementation
    return config


def plain_config(config: NexusConfig) -> LlamaConfig:
    """The plain model's part of a student's configuration."""
    plain = LlamaConfig(**_shared(config))
    plain._attn_implementation = config._attn_implementation
    return plain


def _shared(config: LlamaConfig) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in _OWN}


def plain_backbone(source: str | Path | LlamaForCausalLM | None, arch: StudentArch) -> LlamaForCausalLM:
    """The plain model that a student starts from, if it is the one that was planned."""
    planned = LlamaConfig(**arch.backbone)
    if source is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(arch.seed)
            return LlamaForCausalLM(planned)
    plain = source if isinstance(source, LlamaForCausalLM) else _load_plain(Path(source))
    for name in arch.backbone:
        if (found := getattr(plain.config, name)) != (wanted := getattr(planned, name)):
            raise DataError(
                f"the backbone has {name} {found!r}, and {wanted!r} was planned",
                "plan again with `nexus architect`, or name the backbone that was planned",
            )
    return plain


def copy_weights(source: nn.Module, target: nn.Module, state: dict[str, torch.Tensor] | None = None) -> None:
    """The backbone of `source` (or `state`) into `target`, which takes over its precision, place and settings too."""
    first = next(source.parameters())
    target.to(dtype=first.dtype, device=first.device)
    target.load_state_dict(source.state_dict() if state is None else state)
    # The angles of RoPE stay in fp32 where they were loaded so, and are in no state dict.
    for name, buffer in source.named_buffers():
        if name.startswith("model.rotary_emb."):
            target.get_buffer(name).data = buffer.detach().clone()
    target.generation_config = copy.deepcopy(cast(Any, source).generation_config)


def _load_plain(path: Path) -> LlamaForCausalLM:
    if not path.is_dir():
        raise ModelError(f"{path}: no such directory", "name the directory of a Llama checkpoint")
    refuse_unsafe(path)
    with quiet():
        model, report = LlamaForCausalLM.from_pretrained(
            path,
            dtype=torch.float32,  # whatever the file holds: what is taught is kept in full precision
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if unknown := check_loaded(path, report):
        raise ModelError(f"{path}: {unknown[0]} belongs to no Llama", "name the directory of a Llama checkpoint")
    check_finite(path, model)
    return cast(LlamaForCausalLM, model)
