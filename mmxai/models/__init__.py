"""Models with named sites: `load_model`, `wrap`, `Model`; and `edits`, functions that change activations."""

from mmxai.models import edits
from mmxai.models.load import load_model
from mmxai.models.model import Model, Run
from mmxai.models.wrap import wrap

__all__ = ["Model", "Run", "edits", "load_model", "wrap"]
