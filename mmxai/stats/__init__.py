"""Streaming statistics per neuron that merge exactly: what a store keeps beside its activations."""

from mmxai.stats.accumulate import PART_SHIFT, STATE_NAMES, StatsAccumulator, state_bytes
from mmxai.stats.merge import Merger, merge

__all__ = ["PART_SHIFT", "STATE_NAMES", "Merger", "StatsAccumulator", "merge", "state_bytes"]
