"""`python -m benchmarks CASE`: `mmxai bench` from a checkout. The cases are in `mmxai/bench`."""
