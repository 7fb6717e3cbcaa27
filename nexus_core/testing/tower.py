"""Conformance of a tower: adapters of the planned shape that start inert, and outputs that decode to what was put in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from nexus_core.testing.base import Conformance, require
from nexus_core.types import AdapterPlan, DecodeOptions, Kind

if TYPE_CHECKING:
    from torch import nn


class _TowerCase(Conformance):
    kind = Kind.TOWER
    tower: ClassVar[str] = ""  # the tower's name where it is not the plugin's own


class BuildAdapterConformance(_TowerCase):
    def adapter(self, hidden_size: int = 32, rank: int = 4, seed: int = 42) -> nn.Module:
        name = self.tower or self.subject.name
        return self.alone.build_adapter(AdapterPlan("reasoning", name, hidden_size, rank, seed=seed))

    def test_starts_as_the_identity(self) -> None:
        """adapter: keeps the shape and starts as the identity, for several ranks"""
        import torch

        for hidden_size, rank in ((32, 1), (32, 4), (48, 48)):
            hidden = torch.randn(2, 5, hidden_size, generator=torch.Generator().manual_seed(0))
            out = self.adapter(hidden_size, rank)(hidden)
            require(out.shape == hidden.shape, f"rank {rank}: {tuple(hidden.shape)} became {tuple(out.shape)}")
            require(torch.equal(out, hidden), f"rank {rank}: an untrained adapter changes its input")

    def test_every_parameter_learns(self) -> None:
        """adapter: with the gate open, every parameter receives a gradient"""
        import torch

        module = self.adapter()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.abs().sum() == 0:
                    parameter.fill_(0.1)  # opens every gate, and moves biases off zero
        module(torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        dead = [name for name, p in module.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
        require(not dead, f"no gradient reaches {', '.join(dead)}")

    def test_rank_is_what_was_planned(self) -> None:
        """adapter: size grows with the rank, weights come from the plan's seed"""
        import torch

        sizes = [sum(p.numel() for p in self.adapter(rank=rank).parameters()) for rank in (2, 4, 8)]
        require(sizes == sorted(set(sizes)), f"ranks 2, 4 and 8 give {sizes} parameters")
        torch.manual_seed(1)
        first = self.adapter().state_dict()
        torch.manual_seed(2)
        second = self.adapter().state_dict()
        require(all(torch.equal(first[k], second[k]) for k in first), "one plan gives two sets of weights")

    def test_leaves_other_towers_alone(self) -> None:
        """adapter: builds none for another tower"""
        plan = AdapterPlan("reasoning", "a-tower-of-nobody", 32, 4)
        answers = list(self.alone.answers(self.kind, "build_adapter", self.subject.key, plan=plan))
        require(not answers, "builds an adapter for a tower that does not exist")


class DecodeConformance(_TowerCase):
    modality: ClassVar[str] = "text"

    def round_trip(self) -> tuple[Any, DecodeOptions, Any]:
        """(raw output, options, what a user should hold). Text unless the subclass says otherwise."""
        from nexus_core.testing.tiny import byte_tokenizer

        text = "naïve 4 + 4 = 8 ✓"
        tokenizer = byte_tokenizer()
        return tokenizer(text)["input_ids"], DecodeOptions(processor=tokenizer), text

    def test_decode_round_trip(self) -> None:
        """decode: what was encoded comes back"""
        output, options, expected = self.round_trip()
        decoded = self.alone.decode(self.modality, output, options)
        require(decoded == expected, f"{expected!r} came back as {decoded!r}")

    def test_leaves_other_modalities_alone(self) -> None:
        """decode: answers for its own modalities only"""
        arguments: dict[str, Any] = {"modality": "a-sense-of-nobody", "output": [1], "options": DecodeOptions()}
        answers = list(self.alone.answers(self.kind, "decode", self.subject.key, **arguments))
        require(not answers, "decodes a modality that does not exist")


class TowerConformance(BuildAdapterConformance, DecodeConformance):
    """All checks of a tower that both builds adapters and decodes."""
