"""Linear algebra over rows that stream by, shared by methods."""

from mmxai.linalg.moments import Moments

__all__ = ["Moments"]
