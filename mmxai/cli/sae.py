"""Sparse autoencoders: train them, measure them, encode a store, look at latents, convert files."""

VERBS = {
    "train": "train SAEs, transcoders or crosscoders from a store, or live from a model",
    "eval": "figures of an SAE beside its nulls",
    "encode": "a store's activations as a topk store of latents",
    "show": "pages of latents: pictures, texts, curves",
    "convert": "to and from the files of SAELens, sparsify, dictionary_learning and ViT-Prisma",
}
"""Each is the module `sae_<name>` beside this one, with `Config` and `run`."""
