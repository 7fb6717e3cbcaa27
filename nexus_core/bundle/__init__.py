"""The bundle: what ships. Layout and manifest, the strict reader, the deterministic writer."""
