"""Representations taken apart: by directions of a site (dictionary), by what wrote them (path)."""

VERBS = {
    "dictionary": "PCA, ICA, NMF, k-means of a store's sites, in one table with SAEs",
    "path": "the exact split of a model's output over heads, MLPs and embeddings",
}
"""Each is the module `decompose_<name>` beside this one, with `Config` and `run`."""
