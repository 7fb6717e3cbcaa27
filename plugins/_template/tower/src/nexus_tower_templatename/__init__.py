"""The templatename tower for Nexus."""
