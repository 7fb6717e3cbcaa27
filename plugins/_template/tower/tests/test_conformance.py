from nexus_tower_templatename.conformance import TestTemplatename

__all__ = ["TestTemplatename"]  # pytest collects the class; its checks come from nexus_core.testing
