"""Non-negative least squares by exact coordinate descent on the Gram matrix (HALS: Cichocki and Phan
2009)."""

from __future__ import annotations

import torch

_ROWS = 2048  # whose codes and products stay in a processor's cache
_SWEEPS, _TOL = 500, 1e-5


def nonnegative_codes(
    x: torch.Tensor, directions: torch.Tensor, start: torch.Tensor | None = None, tol: float = _TOL
) -> torch.Tensor:
    """The h >= 0 `[N, K]` that minimise |x - h @ directions|^2 a row, for x `[N, D]`, directions `[K, D]`.

    Coordinate descent reaches the one minimum there is where directions are independent. It ends where a
    sweep moves no code by more than `tol` of the largest (of 2,048 rows), or after 500 sweeps. `start` `[N,
    K]`: the codes to begin with. A direction of length 0 has codes 0.
    """
    gram = directions @ directions.T
    out = torch.empty(len(x), len(directions), dtype=x.dtype)
    for first in range(0, len(x), _ROWS):
        part = slice(first, first + _ROWS)
        begun = None if start is None else start[part].T.contiguous()
        out[part] = descend(gram, directions @ x[part].T, begun, tol).T
    return out


def descend(
    gram: torch.Tensor,
    products: torch.Tensor,
    h: torch.Tensor | None,
    tol: float = _TOL,
    sweeps: int = _SWEEPS,
) -> torch.Tensor:
    """min_h>=0 of tr(h' gram h) / 2 - tr(h' products), for `gram` `[K, K]`, `products` `[K, N]`: h `[K, N]`.

    It works in place on `h` where that is given.
    """
    scale = gram.diagonal().tolist()
    h = torch.zeros_like(products) if h is None else h
    for _ in range(sweeps):
        moved = h.new_zeros(())
        for k, own in enumerate(scale):
            if own <= 0:
                h[k] = 0
                continue
            new = torch.addmv(products[k], h.T, gram[k], alpha=-1).div_(own).add_(h[k]).clamp_(min=0)
            moved = torch.maximum(moved, (new - h[k]).abs().max())
            h[k] = new
        if moved <= tol * h.max():
            break
    return h
