from nexus_capability_code.conformance import TestCode

__all__ = ["TestCode"]
