"""Network dissection in pictures: layers, units, masks."""

from mmxai.report.dissect.pages import DissectPages, dissect_pages

__all__ = ["DissectPages", "dissect_pages"]
