"""The built-in world with known answers: pictures, scene graphs, captions, masks, twins."""

from mmxai.shapes.captions import Caption, prompt, swapped
from mmxai.shapes.check import parse, true_of
from mmxai.shapes.scene import Scene, Thing
from mmxai.shapes.twins import Change, Twin
from mmxai.shapes.world import Item, ShapesWorld, WorldBatch

__all__ = [
    "Caption",
    "Change",
    "Item",
    "Scene",
    "ShapesWorld",
    "Thing",
    "Twin",
    "WorldBatch",
    "parse",
    "prompt",
    "swapped",
    "true_of",
]
