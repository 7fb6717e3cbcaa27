"""The templatename capability for Nexus."""
