"""Find a model's repeated blocks by walking its module tree; no list of class names or attribute paths."""

from __future__ import annotations

from torch import nn

# A ModuleList is a stack of blocks when it holds at least this share of the parameters. Smaller lists are details
# (a convolutional stem, per-codebook heads); in 33 transformers families a tenth separates the two.
STACK_SHARE = 0.1


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The children of the outermost ModuleLists that hold a tenth of the parameters, in module order, by dotted name.

    An encoder-decoder yields both stacks. A list inside a block (experts of a mixture) is not a stack of its own.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    blocks: dict[str, nn.Module] = {}
    stacks: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{stack}.") for stack in stacks):
            continue
        size = sum(parameter.numel() for parameter in module.parameters())
        if size >= STACK_SHARE * total:
            stacks.append(name)
            blocks |= {f"{name}.{index}": block for index, block in enumerate(module)}
    return blocks
