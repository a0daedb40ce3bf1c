"""Network dissection in pictures: layers, units, masks."""

from mmxai.report.dissect.pages import DissectPages, dissect_pages, file_of

__all__ = ["DissectPages", "dissect_pages", "file_of"]
