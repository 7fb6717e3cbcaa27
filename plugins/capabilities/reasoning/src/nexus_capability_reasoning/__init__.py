"""Capability pack `reasoning`: multi-step word problems, MMLU and ARC."""
