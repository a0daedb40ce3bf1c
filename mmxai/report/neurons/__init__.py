"""Pages about single units of a site: neurons, heads, residual dimensions, latents."""

from mmxai.report.neurons.pages import Panel, Plot, UnitPages, choose, unit_pages

__all__ = ["Panel", "Plot", "UnitPages", "choose", "unit_pages"]
