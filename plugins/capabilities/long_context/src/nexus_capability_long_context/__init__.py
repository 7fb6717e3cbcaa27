"""Capability pack `long_context`: short answers from far back in a long input."""
