"""Streaming statistics per neuron that merge exactly: what a store keeps beside its activations."""

from mmxai.stats.accumulate import (
    OPTIONAL_NAMES,
    PART_SHIFT,
    STATE_NAMES,
    StatsAccumulator,
    state_arrays,
    state_bytes,
)
from mmxai.stats.merge import Merger, merge

__all__ = [
    "OPTIONAL_NAMES",
    "PART_SHIFT",
    "STATE_NAMES",
    "Merger",
    "StatsAccumulator",
    "merge",
    "state_arrays",
    "state_bytes",
]
