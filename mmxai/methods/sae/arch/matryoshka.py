"""Matryoshka: BatchTopK whose first latents must reconstruct alone, for each of several nested dictionaries.

Bussmann et al. 2025, arXiv:2503.17547. The losses of the prefixes weigh the same.
"""

from __future__ import annotations

from mmxai.methods.sae.arch.batchtopk import BatchTopK


class Matryoshka(BatchTopK):
    def __init__(self, k: int, prefixes: tuple[int, ...]):
        super().__init__(k)
        self.prefixes = prefixes
