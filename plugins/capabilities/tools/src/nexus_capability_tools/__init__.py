"""Capability pack `tools`: one schema-valid tool call with the right arguments."""
