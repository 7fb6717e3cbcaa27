"""What `nexus plugins check math` runs."""

from __future__ import annotations

from nexus_core.testing import CapabilityConformance


class TestMath(CapabilityConformance):
    plugin = "math"
