"""Words for the units of a site: those whose likeness to pictures, in a judge's eyes, goes with the units'
values in them (CLIP-Dissect), and how far the units do what the words say."""

from mmxai.methods.describe.config import DescribeConfig
from mmxai.methods.describe.judge import Judged, look, read_words
from mmxai.methods.describe.results import Description, Descriptions
from mmxai.methods.describe.run import describe
from mmxai.methods.describe.scores import cosine, cosine_cubed, rank_reorder, soft_wpmi, wpmi

__all__ = [
    "DescribeConfig", "Description", "Descriptions", "Judged", "cosine", "cosine_cubed", "describe", "look",
    "rank_reorder", "read_words", "soft_wpmi", "wpmi",
]  # fmt: skip
