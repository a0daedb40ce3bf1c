"""Benchmarks: `python -m benchmarks CASE [--json FILE]`. Figures are ratios inside one run, each beside its floor."""
