from nexus_capability_reasoning.conformance import TestReasoning

__all__ = ["TestReasoning"]
