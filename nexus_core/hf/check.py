"""Prove that a checkpoint was loaded whole: nothing random, nothing mismatched, nothing that is no number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.errors import ModelError

if TYPE_CHECKING:
    import torch

SHOWN = 5  # tensors listed in a message; the rest are counted


def check_loaded(path: Path, report: dict[str, Any]) -> tuple[str, ...]:
    """Nothing random, nothing mismatched, every file tensor used or named. Returns the unused ones.

    `report` is what `from_pretrained(..., output_loading_info=True)` gave beside the model.
    """
    problems = {
        "not in the checkpoint, would be random": sorted(report["missing_keys"]),
        "of another shape than the model's": sorted(
            f"{name} ({tuple(found)} for {tuple(wanted)})" for name, found, wanted in report["mismatched_keys"]
        ),
        "not convertible": sorted(str(key) for key in report.get("error_msgs", ())),
    }
    said = [f"{_listed(names)} {what}" for what, names in problems.items() if names]
    if said:
        raise ModelError(
            f"{path}: {'; '.join(said)}", "the checkpoint is incomplete, or config.json is another model's"
        )
    return tuple(sorted(report["unexpected_keys"]))


def check_finite(path: Path, model: Any) -> None:
    """A checkpoint with NaN in it loads, answers nonsense and scores 0: it is refused by the tensor's name instead."""
    bad = [name for name, p in model.named_parameters() if p.is_floating_point() and not all_finite(p)]
    if bad:
        raise ModelError(f"{path}: {_listed(bad)} holds NaN or infinity", "restore the checkpoint from where it came")


def all_finite(tensor: torch.Tensor) -> bool:
    """No NaN and no infinity: both reach an extreme. A tenth of the time of `isfinite(...).all()`, which loading feels."""
    return not tensor.numel() or all(bound.isfinite() for bound in tensor.detach().aminmax())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
