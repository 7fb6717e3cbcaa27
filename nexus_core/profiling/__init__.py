"""NIWT profiling: find what carries a capability, prove it by ablation, and keep a small summary of it."""
