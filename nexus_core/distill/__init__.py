"""Distillation: the student learns from the cached signals of teachers that are no longer in memory."""
