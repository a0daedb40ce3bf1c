"""Concepts of pictures, pixel by pixel, from the annotations that the field has."""

from mmxai.concepts.broden import BrodenConcepts
from mmxai.concepts.coco import CocoConcepts
from mmxai.concepts.folder import FolderConcepts
from mmxai.concepts.joined import JoinedConcepts
from mmxai.concepts.opening import open_concepts
from mmxai.concepts.tables import BoxConcepts, TableConcepts
from mmxai.concepts.types import Concept, Concepts, ImageLabels, Instance
from mmxai.concepts.world import WorldConcepts

__all__ = [
    "BoxConcepts",
    "BrodenConcepts",
    "CocoConcepts",
    "Concept",
    "Concepts",
    "FolderConcepts",
    "ImageLabels",
    "Instance",
    "JoinedConcepts",
    "TableConcepts",
    "WorldConcepts",
    "open_concepts",
]
