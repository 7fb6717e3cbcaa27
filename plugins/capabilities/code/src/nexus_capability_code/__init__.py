"""Capability pack `code`: small functions from descriptions, scored by their tests in a sandbox."""
