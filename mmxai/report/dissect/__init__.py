"""Network dissection in pictures: layers, units, masks."""

from mmxai.report.dissect.pages import DissectPages, dissect_pages
from mmxai.report.dissect.site import file_of

__all__ = ["DissectPages", "dissect_pages", "file_of"]
