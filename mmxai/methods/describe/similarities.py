"""How like each picture is to each word, in the judge's eyes: a matrix that may be too large to be held."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.log_products import log_norms

_ROW_VALUES = 1 << 23  # of a block of pictures, 32 MiB


class Similarities:
    """Cosines of N pictures and W words, float32, by blocks of words.

    images float32 `[N, J]` and texts float32 `[W, J]` of norm 1 on one device. memory: bytes that the matrix
    may take to be computed once and held; where it does not fit, each block is computed whenever asked for.
    """

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, memory: int = 1 << 30):
        if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
            raise ArgumentError(
                f"similarities: got pictures {tuple(images.shape)} and words {tuple(texts.shape)}, expected "
                "(N, J) and (W, J)"
            )
        self._images, self._texts = images, texts
        self.pictures, self.words = len(images), len(texts)
        self._norms: dict[float, torch.Tensor] = {}
        self._held = self._all() if 4 * self.pictures * self.words <= memory else None

    @classmethod
    def of(cls, matrix: torch.Tensor) -> Similarities:
        """Those that are known already: float32 `[N, W]`; they need not be cosines."""
        if matrix.ndim != 2 or matrix.dtype != torch.float32:
            raise ArgumentError(
                f"similarities: got {matrix.dtype} of shape {tuple(matrix.shape)}, expected (N, W) of float32"
            )
        made = cls.__new__(cls)
        made._images = made._texts = matrix[:0]
        made.pictures, made.words = matrix.shape
        made._held, made._norms = matrix, {}
        return made

    @property
    def device(self) -> torch.device:
        return self._images.device if self._held is None else self._held.device

    def block(self, start: int, stop: int) -> torch.Tensor:
        """float32 `[N, stop - start]`, not to be written to."""
        if self._held is not None:
            return self._held[:, start:stop]
        return self._images @ self._texts[start:stop].T

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """float32 `[stop - start, W]` of some pictures, not to be written to."""
        if self._held is not None:
            return self._held[start:stop]
        return self._images[start:stop] @ self._texts.T

    def log_norms(self, temperature: float) -> torch.Tensor:
        """float32 `[N]`: of each picture the logarithm of the sum, over all words, of exp(temperature x its
        similarity). Kept."""
        if temperature not in self._norms:
            step = max(1, _ROW_VALUES // max(1, self.words))
            found = [
                log_norms(self.rows(start, start + step), temperature)
                for start in range(0, self.pictures, step)
            ]
            self._norms[temperature] = torch.cat(found)
        return self._norms[temperature]

    def _all(self) -> torch.Tensor:
        out = torch.empty((self.pictures, self.words), device=self._images.device)
        step = max(1, _ROW_VALUES // max(1, self.words))
        for start in range(0, self.pictures, step):
            torch.mm(self._images[start : start + step], self._texts.T, out=out[start : start + step])
        return out
