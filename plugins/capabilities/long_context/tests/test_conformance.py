from nexus_capability_long_context.conformance import TestLongContext

__all__ = ["TestLongContext"]
