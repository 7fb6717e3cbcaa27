"""One block of the student: a Llama block, the ports of the towers, then the chosen adapter's bottleneck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from nexus_core.student.adapter import AnchoredBottleneck, FoldedBottleneck
from nexus_core.student.deltas import DeltaLinear
from nexus_core.student.kept import Kept
from nexus_core.student.ports import NexusCrossAttention

Recorded = dict[int, torch.Tensor]
Rows = Callable[[torch.Tensor], torch.Tensor]  # (B, d) to (B, d)


class NexusDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc]  # transformers is untyped
    """With no thoughts and nothing chosen it runs exactly the operations of the block that it extends."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.layer_idx = layer_idx
        for parent in (self.self_attn, self.mlp):
            for name, linear in list(parent.named_children()):
                if isinstance(linear, nn.Linear):
                    bias = linear.bias is not None
                    setattr(parent, name, DeltaLinear(linear.in_features, linear.out_features, bias))
        self.ports = nn.ModuleDict()  # tower -> NexusCrossAttention; the model fills it
        self._bottleneck: tuple[nn.Module, ...] = ()  # in a tuple: it belongs to its adapter, and is no child of ours
        self._folded: Kept[FoldedBottleneck] | None = None
        self._seen: Recorded | None = None

    def choose(self, bottleneck: nn.Module | None) -> None:
        """The bottleneck after this block from now on, or none."""
        self._bottleneck = () if bottleneck is None else (bottleneck,)
        self._folded = None

    def record(self, seen: Recorded | None) -> None:
        """Where forward passes leave the coordinates of the chosen bottleneck."""
        self._seen = seen

    def train(self, mode: bool = True) -> NexusDecoderLayer:
        self._folded = None
        module: NexusDecoderLayer = super().train(mode)
        return module

    def forward(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        thoughts: dict[str, torch.Tensor] | None = None,
        thoughts_mask: dict[str, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        hidden: torch.Tensor = super().forward(hidden_states, *args, **kwargs)
        return self.steer(self.listen(hidden, thoughts or {}, thoughts_mask or {}))

    def listen(
        self, hidden: torch.Tensor, thoughts: dict[str, torch.Tensor], masks: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Through the port of each tower that offers thoughts."""
        for tower, port in self.ports.items():
            if tower in thoughts:
                assert isinstance(port, NexusCrossAttention)
                hidden = port(hidden, thoughts[tower], masks.get(tower))
        return hidden

    def steer(self, hidden: torch.Tensor) -> torch.Tensor:
        """Through the chosen bottleneck, if there is one."""
        if not self._bottleneck:
            return hidden
        bottleneck = self._bottleneck[0]
        if self._seen is not None and isinstance(bottleneck, AnchoredBottleneck):
            z = self._seen[self.layer_idx] = bottleneck.coordinates(hidden)
            return bottleneck.steer(hidden, z)
        out: torch.Tensor = (self.folded() or bottleneck)(hidden)
        return out

    def steering(self) -> Rows | None:
        """What `steer` does to one position, on rows (B, d), as it is now: choosing anew does not reach it."""
        if not self._bottleneck:
            return None
        bottleneck, folded = self._bottleneck[0], self.folded()
        return folded.rows if folded is not None else lambda hidden: bottleneck(hidden[:, None])[:, 0]

    def folded(self) -> FoldedBottleneck | None:
        """The chosen bottleneck in its short form, at inference: in fp32, where folding costs no accuracy."""
        bottleneck = self._bottleneck[0]
        if self.training or torch.is_grad_enabled() or not isinstance(bottleneck, AnchoredBottleneck):
            return None
        # `addmm` under autocast would round the residual stream to bf16; folding a bf16 model would round twice.
        if bottleneck.gate.dtype is not torch.float32 or torch.is_autocast_enabled(bottleneck.gate.device.type):
            return None
        if self._folded is None:
            self._folded = Kept(bottleneck.folded, tuple(bottleneck.parameters()))
        return self._folded()
