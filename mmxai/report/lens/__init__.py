"""The page of the logit lens."""

from mmxai.report.lens.page import lens_page

__all__ = ["lens_page"]
