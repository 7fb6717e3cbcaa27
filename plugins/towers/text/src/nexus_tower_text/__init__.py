"""The text tower of Nexus."""
