from nexus_teacher_transformers.conformance import TestGPTNeoX, TestLlama

__all__ = ["TestGPTNeoX", "TestLlama"]
