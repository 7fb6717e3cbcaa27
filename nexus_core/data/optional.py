"""Import an optional library where it is needed, and say how to install it where it is not."""

from __future__ import annotations

import importlib
from typing import Any

from nexus_core.errors import DataError

INSTALL = {"av": 'pip install "nexus-core[video]"'}


def need(module: str, purpose: str) -> Any:
    """The module called `module`; `purpose` completes "x is needed to ..."."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = error.name or module
        if name.split(".")[0] != module.split(".")[0]:
            raise
        raise DataError(
            f"{module.split('.')[0]} is needed to {purpose}, and is not installed",
            INSTALL.get(module, 'pip install "nexus-core[data]"'),
        ) from None
