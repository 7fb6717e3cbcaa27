"""The templatename teacher for Nexus."""
