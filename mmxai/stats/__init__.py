"""Streaming statistics per neuron that merge exactly: what a store keeps beside its activations."""

from mmxai.stats.accumulate import STATE_NAMES, StatsAccumulator
from mmxai.stats.merge import merge

__all__ = ["STATE_NAMES", "StatsAccumulator", "merge"]
