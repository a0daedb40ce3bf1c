"""The page of a split of a model's output."""

from mmxai.report.path.page import path_page

__all__ = ["path_page"]
