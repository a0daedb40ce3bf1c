"""The page of a study of causal tracing."""

from mmxai.report.trace.page import trace_page

__all__ = ["trace_page"]
