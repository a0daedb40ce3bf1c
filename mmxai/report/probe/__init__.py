"""The page of a probing run."""

from mmxai.report.probe.page import probe_page

__all__ = ["probe_page"]
