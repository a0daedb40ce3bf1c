"""Benchmarks: `python -m benchmarks CASE`. Figures are ratios inside one run, each beside its floor."""
