"""Nexus: distil several large frozen teachers into one compact student that needs none of them.

The public API for plugin authors is `nexus_core.hooks`, `nexus_core.types`, `nexus_core.errors`, `nexus_core.hf`,
`nexus_core.data` and `nexus_core.testing`. A bundle's consumer imports `nexus` instead.
"""

__version__ = "0.1.0"
