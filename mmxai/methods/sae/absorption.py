"""Feature absorption: a concept's latents stay silent on a case of it, and another latent carries it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.methods.sae.activity import Activity

if TYPE_CHECKING:
    from mmxai.methods.sae.seen import Seen

LEAST_COSINE = 0.025
LEAST_SHARE = 0.4


def means_apart(seen: Seen, wanted: np.ndarray) -> dict[int, torch.Tensor]:
    """Label number -> mean of the cells with the label less mean of those without, of the choosing half.

    float64 `[D]` of norm 1, in the sites' own units: what having the label adds to a row.
    """
    found = {}
    for c in np.flatnonzero(wanted).tolist():
        have = seen.sums[c] / seen.counts[c]
        lack = (seen.sums[-1] - seen.sums[c]) / (seen.counts[-1] - seen.counts[c])
        found[c] = (have - lack) / (have - lack).norm().clamp(min=1e-300)
    return found


def absorbed_share(
    written: torch.Tensor, activity: Activity, label: np.ndarray, mains: Sequence[int], along: torch.Tensor
) -> float:
    """Share of the cells with the concept on which it is absorbed. NaN where no cell has it.

    written: float64 `[M, D]`, what a unit of each latent adds to a row (`overlap.directions`). A cell counts
    where none of `mains`, the concept's own latents, is active, and of all latents the one that writes most
    along the concept's direction (`along`, of `means_apart`) makes up at least 0.4 of what all write along
    it, its own direction at a cosine of at least 0.025 with the concept's. After Chanin et al. 2024
    (arXiv:2409.14507), with projections in place of their ablations, as in SAEBench (Karvonen et al. 2025,
    arXiv:2503.09532).
    """
    positive = int(label.sum())
    if not positive:
        return float("nan")
    main = np.zeros(activity.width, bool)
    main[list(mains)] = True
    served = np.zeros(activity.count, bool)
    served[activity.items[main[activity.latents]]] = True
    kept = (label & ~served)[activity.items]
    items, latents = activity.items[kept], activity.latents[kept]
    if not len(items):
        return 0.0
    share = (written @ along).numpy()
    cosine = share / np.maximum(written.norm(dim=1).numpy(), 1e-300)
    writes = np.maximum(activity.values[kept] * share[latents], 0)
    first = np.flatnonzero(np.diff(items, prepend=-1))  # entries of a cell stand together
    most, whole = np.maximum.reduceat(writes, first), np.add.reduceat(writes, first)
    clear = (most > 0) & (most >= LEAST_SHARE * whole)
    top = writes == np.repeat(most, np.diff(np.append(first, len(items))))
    aligned = np.add.reduceat((top & (cosine[latents] >= LEAST_COSINE)).astype(np.int64), first) > 0
    return float((clear & aligned).sum() / positive)
