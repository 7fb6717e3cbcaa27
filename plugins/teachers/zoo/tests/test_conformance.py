from nexus_teacher_zoo.conformance import TestZoo

__all__ = ["TestZoo"]
