from nexus_capability_tools.conformance import TestTools

__all__ = ["TestTools"]
