"""Causal tracing: which states carry an answer."""
