"""GGUF files as Nexus teachers."""
