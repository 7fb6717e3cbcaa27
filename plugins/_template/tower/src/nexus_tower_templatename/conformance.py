"""What `nexus plugins check templatename` runs."""

from __future__ import annotations

from typing import Any

from nexus_core.testing import TowerConformance
from nexus_core.types import DecodeOptions


class TestTemplatename(TowerConformance):
    plugin = "templatename"
    modality = "templatename"

    def round_trip(self) -> tuple[Any, DecodeOptions, Any]:
        return list(b"as it was"), DecodeOptions(), b"as it was"
