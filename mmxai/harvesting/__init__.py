"""The main job: a model, a data set, a store. Composition of data, models, capture, stats and store."""

from mmxai.harvesting.config import HarvestConfig
from mmxai.harvesting.report import HarvestReport
from mmxai.harvesting.run import harvest

__all__ = ["HarvestConfig", "HarvestReport", "harvest"]
