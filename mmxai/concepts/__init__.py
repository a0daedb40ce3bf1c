"""Concepts of pictures, pixel by pixel, from the annotations that the field has."""

from mmxai.concepts.opening import open_concepts
from mmxai.concepts.types import Concept, Concepts, ImageLabels, Instance
from mmxai.concepts.world import WorldConcepts

__all__ = ["Concept", "Concepts", "ImageLabels", "Instance", "WorldConcepts", "open_concepts"]
