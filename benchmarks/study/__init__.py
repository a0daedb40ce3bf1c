"""`python -m benchmarks.study`: what SAEs reach on models that are here; writes tables of docs/sae.md."""
