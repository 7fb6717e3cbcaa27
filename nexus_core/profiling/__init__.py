"""NIWT profiling: find what carries a capability, prove it by ablation, and keep a small summary of it."""

OUTPUT = "niwt_stage2_output"
"""Where a run keeps what profiling found. Its name is part of what other tools read."""
