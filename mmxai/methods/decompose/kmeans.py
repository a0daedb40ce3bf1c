"""k-means and spherical k-means (Dhillon and Modha 2001) of streamed rows: Lloyd's algorithm, a pass a step.

Seeds are scikit-learn's (k-means++), of a sample, on which Lloyd runs first; then it goes on over all rows,
so that the error falls with every pass and the centroids are means of all their rows. Its MiniBatchKMeans
takes blocks too, but its centroids depend on their order and its error may rise; it has no spherical variant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.decompose.alternate import alternate
from mmxai.methods.decompose.dictionary import nearest
from mmxai.methods.decompose.stream import Blocks

_SEED_ROWS = 8192


def seeds_of(sample: torch.Tensor, units: int, seed: int) -> torch.Tensor:
    """`units` rows of `sample` `[n, D]`, far from one another: k-means++ (Arthur and Vassilvitskii 2007)."""
    from sklearn.cluster import kmeans_plusplus

    if len(sample) < units:
        raise ArgumentError(f"k-means: got {len(sample)} rows for {units} units, expected as many at least")
    few = sample[:: -(-len(sample) // _SEED_ROWS)]  # of all of it: rows of a sample stand together
    few = few if len(few) >= units else sample
    centres, _ = kmeans_plusplus(few.numpy(), units, random_state=seed)
    return torch.from_numpy(centres).float()


def fit_kmeans(
    sample: torch.Tensor,
    rows: Blocks | None,
    units: int,
    *,
    offset: torch.Tensor | None = None,
    spherical: bool = False,
    warm: int = 200,
    passes: int = 12,
    tol: float = 1e-4,
    seed: int = 0,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Centroids float32 `[units, D]` (spherical: of norm 1, of rows less `offset`), and facts.

    Over `sample` `[n, D]` (at most `warm` times), then over `rows` (at most `passes`; None: the sample is
    all), until the error falls by less than the share `tol`. A centroid without rows begins anew at the row
    that is worst explained.
    """
    shift = torch.zeros(sample.shape[1]) if offset is None else offset.float()

    def ready(x: torch.Tensor) -> torch.Tensor:
        x = x - shift
        return torch.nn.functional.normalize(x, dim=1) if spherical else x

    def step(blocks: Iterator[torch.Tensor], centroids: torch.Tensor) -> tuple[torch.Tensor, float]:
        return _lloyd(blocks, centroids, spherical)

    prepared = ready(sample)
    first = seeds_of(prepared, units, seed)
    return alternate(step, first, prepared, rows, ready, warm=warm, passes=passes, tol=tol)


def _lloyd(
    blocks: Iterator[torch.Tensor], centroids: torch.Tensor, spherical: bool
) -> tuple[torch.Tensor, float]:
    """One step: every row to its nearest centroid, every centroid to the mean of its rows. With the mean
    squared distance to the centroids that came in."""
    units, width = centroids.shape
    sums = torch.zeros(units, width, dtype=torch.float64)
    counts = torch.zeros(units, dtype=torch.float64)
    error, worst, farthest = 0.0, torch.full((units,), -1.0), torch.zeros(units, width)
    for x in blocks:
        which, apart = nearest(x, centroids)
        # A product with the one-hot matrix costs K times as much as adding rows where they belong.
        sums.index_add_(0, which, x.double())
        counts += torch.bincount(which, minlength=units)
        error += float(apart.double().sum())
        most, at = apart.topk(min(units, len(x)))
        every = torch.cat([worst, most])
        worst, kept = every.topk(units)
        farthest = torch.cat([farthest, x[at]])[kept]
    new = (sums / counts.clamp(min=1)[:, None]).float()
    empty = (counts == 0).nonzero().flatten()
    new[empty] = farthest[: len(empty)]
    if spherical:
        new = torch.nn.functional.normalize(new, dim=1)
    return new, error / float(counts.sum())
