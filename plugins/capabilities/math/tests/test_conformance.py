from nexus_capability_math.conformance import TestMath

__all__ = ["TestMath"]
