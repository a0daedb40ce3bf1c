"""Words for units in pages: an index of layers, and a page a layer that is searched by word."""

from mmxai.report.describe.pages import DescribePages, describe_pages

__all__ = ["DescribePages", "describe_pages"]
