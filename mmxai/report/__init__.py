"""Pages and pictures from stores and results: static files without outside resources."""

from mmxai.report.page import neuron_page

__all__ = ["neuron_page"]
