"""Models with named sites: `load_model`, `wrap`, `Model`."""

from mmxai.models.load import load_model
from mmxai.models.model import Model, Run
from mmxai.models.wrap import wrap

__all__ = ["Model", "Run", "load_model", "wrap"]
