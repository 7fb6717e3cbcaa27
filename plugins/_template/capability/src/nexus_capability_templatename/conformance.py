"""What `nexus plugins check templatename` runs."""

from __future__ import annotations

from nexus_core.testing import CapabilityConformance


class TestTemplatename(CapabilityConformance):
    plugin = "templatename"
