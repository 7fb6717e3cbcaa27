"""The teacher signal cache: what stage 4 learns from, so that no teacher is in memory then."""

from nexus_core.profiling.cache.attention import AttentionSummary
from nexus_core.profiling.cache.codec import LogitCodec, Packed
from nexus_core.profiling.cache.select import Rule
from nexus_core.profiling.cache.signal import MODALITY_ARRAYS, Coefficients, TeacherSignal, byte_offsets
from nexus_core.profiling.cache.store import Entry, SignalCache, UnitKey
from nexus_core.profiling.cache.tail import TailAverage, TailShape
from nexus_core.profiling.cache.topk import TopK, kl_divergence

__all__ = [
    "MODALITY_ARRAYS",
    "AttentionSummary",
    "Coefficients",
    "Entry",
    "LogitCodec",
    "Packed",
    "Rule",
    "SignalCache",
    "TailAverage",
    "TailShape",
    "TeacherSignal",
    "TopK",
    "UnitKey",
    "byte_offsets",
    "kl_divergence",
]
