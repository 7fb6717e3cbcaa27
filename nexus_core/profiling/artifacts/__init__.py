"""What stage 2 leaves on disk: fixed names, stable bytes, a manifest, and no change that a crash could tear."""

from nexus_core.profiling.artifacts.layout import ArtifactError
from nexus_core.profiling.artifacts.store import ProfileStore
from nexus_core.profiling.artifacts.verify import Finding, FindingKind

__all__ = ["ArtifactError", "Finding", "FindingKind", "ProfileStore"]
