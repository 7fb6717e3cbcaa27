from nexus_tower_text.conformance import TestText, TestToolCall

__all__ = ["TestText", "TestToolCall"]
