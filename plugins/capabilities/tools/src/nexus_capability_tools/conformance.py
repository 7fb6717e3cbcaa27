"""What `nexus plugins check tools` runs."""

from __future__ import annotations

from nexus_core.testing import CapabilityConformance


class TestTools(CapabilityConformance):
    plugin = "tools"
