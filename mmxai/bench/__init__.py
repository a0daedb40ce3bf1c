"""The benchmarks: `mmxai bench`, and `python -m benchmarks` in a checkout.

A case is a module of `mmxai.bench.cases` with `TESTS` (what must be green before anything is timed), `GPU`
(whether it measures one) and `run(options) -> list[Figure]`. A figure is a ratio inside one run and stands
beside its floor; rivals that are packages of their own run in virtual environments of their own
(`mmxai.bench.peers`).
"""

from mmxai.bench.figures import CannotRunError, Figure, Timing, interleave, ratio, seconds_text
from mmxai.bench.options import Options

__all__ = ["CannotRunError", "Figure", "Options", "Timing", "interleave", "ratio", "seconds_text"]
