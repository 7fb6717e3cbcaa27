from nexus_teacher_gguf.conformance import TestGGUF

__all__ = ["TestGGUF"]
