"""Data sets: where samples come from, and reading them ahead of the model."""

from mmxai.data.contexts import contexts
from mmxai.data.loader import SampleLoader, Skipped, load_samples
from mmxai.data.opening import open_data
from mmxai.data.sample import Sample
from mmxai.data.source import Source, Stream, limited

__all__ = [
    "Sample",
    "SampleLoader",
    "Skipped",
    "Source",
    "Stream",
    "contexts",
    "limited",
    "load_samples",
    "open_data",
]
