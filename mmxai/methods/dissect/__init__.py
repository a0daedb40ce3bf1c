"""Network dissection: which concepts the units of a site stand for, by the pixels in which they are
active."""

from mmxai.methods.dissect.config import DissectConfig
from mmxai.methods.dissect.controls import Control
from mmxai.methods.dissect.counts import Counts
from mmxai.methods.dissect.results import Dissection, Dissections
from mmxai.methods.dissect.run import dissect

__all__ = ["Control", "Counts", "DissectConfig", "Dissection", "Dissections", "dissect"]
