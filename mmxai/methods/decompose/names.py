"""Names of units by activation: of which samples a unit is high, in words or labels that are known of them.

A unit's value in a sample is the largest among the sample's rows. With each candidate (a word of the
captions, a label) it is compared by rank correlation, which does not depend on a unit's scale; the area
under the ROC curve (AUC) of the candidate told by the unit stands beside it. Some candidate always fits
best. So the samples are shuffled a number of times, and what the best candidate of any unit then reaches is
the null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError, SelectionError
from mmxai.methods.decompose.stream import finite
from mmxai.results import Result, axes, plain
from mmxai.store.permute import Permutation

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.labels import Truth
    from mmxai.methods.decompose.comparison import Coder
    from mmxai.store.reader import Store

SAMPLES = 4096
FEWEST = 5
"""Samples that have a candidate, and that lack it: with fewer it is none."""

_SHUFFLES = 20
_BLOCK = 2048


@dataclass(frozen=True)
class Name:
    """correlation: of ranks. beaten: the share of units of shuffled samples whose best candidate does as
    well."""

    text: str
    correlation: float
    auc: float
    beaten: float


@dataclass(frozen=True, repr=False)
class ActivationNames(Result):
    """names: of each unit its best candidates, best first; null: ascending, the best correlation of each unit
    with shuffled samples; samples, candidates: how many were compared. end: "+", or "-" where units are named
    by their lowest values."""

    names: list[list[Name]]
    null: np.ndarray
    samples: int
    candidates: int
    end: str = "+"

    @property
    def level(self) -> float:
        """The correlation that 95% of the null stays below."""
        return float(np.quantile(self.null, 0.95))

    def name_of(self, unit: int) -> Name | None:
        """The best candidate, where it does better than 95% of the null."""
        best = next(iter(self.names[unit]), None)
        return best if best is not None and best.correlation > self.level else None

    def summary(self) -> str:
        named = sum(self.name_of(unit) is not None for unit in range(len(self.names)))
        return (
            f"{named} of {len(self.names)} units ({self.end}) have a name: of {self.candidates:,} "
            f"candidates one goes with them better than the best of 95% of shuffled ones (rank correlation "
            f"{self.level:.3f}, over {self.samples:,} samples)"
        )

    def to_pandas(self) -> pandas.DataFrame:
        """A row a unit and candidate."""
        import pandas

        rows = [
            {"unit": u, "end": self.end, "rank": i} | plain(name)
            for u, names in enumerate(self.names)
            for i, name in enumerate(names)
        ]
        columns = ["unit", "end", "rank", "text", "correlation", "auc", "beaten"]
        return pandas.DataFrame(rows, columns=columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Best correlations of the units beside those of shuffled samples."""
        ax = axes(ax)
        best = [names[0].correlation for names in self.names if names]
        bins = np.histogram_bin_edges(np.concatenate([self.null, best]), 40).tolist()
        ax.hist(self.null, bins, density=True, alpha=0.5, label="shuffled samples")
        ax.hist(best, bins, density=True, alpha=0.5, label=f"{len(best)} units")
        ax.set_xlabel("rank correlation with the best candidate")
        ax.legend()
        return ax


def activation_names(
    values: np.ndarray, truth: Truth, samples: np.ndarray, *, number: int = 5, end: str = "+", seed: int = 0
) -> ActivationNames:
    """Names of K units by their `values` `[S, K]` in `samples` int64 `[S]`, out of `truth.names`.

    Candidates that fewer than 5 samples have, or lack, are left out. end "-": `values` are those of the other
    end, smallest first. ArgumentError where no candidate is left.
    """
    present = np.asarray(truth.present(samples), bool)
    usable = candidates(present)
    if not len(usable):
        raise ArgumentError(
            f"names: got {len(truth.names)} candidates over {len(samples)} samples, none of which at least "
            f"{FEWEST} samples have and {FEWEST} lack; give more samples or other candidates"
        )
    present = present[:, usable].astype(np.float64)
    ranks = _ranks(-values if end == "-" else values)
    found = _correlation(ranks, present)
    rng = np.random.default_rng(seed)
    shuffled = [_correlation(ranks, rng.permutation(present)).max(1) for _ in range(_SHUFFLES)]
    null = np.sort(np.concatenate(shuffled))
    have, n = present.sum(0), len(samples)
    auc = (ranks.T @ present / have - (have + 1) / 2) / (n - have)
    best = np.argsort(-found, axis=1, kind="stable")[:, :number]
    names = [
        [
            Name(
                truth.names[usable[c]],
                float(found[u, c]),
                float(auc[u, c]),
                float((null >= found[u, c]).mean()),
            )
            for c in chosen
        ]
        for u, chosen in enumerate(best)
    ]
    return ActivationNames(names, null, n, len(usable), end)


def candidates(present: np.ndarray) -> np.ndarray:
    """Which of C labels, of which bool `[S, C]` tells the samples that have them, tell enough samples apart:
    int64."""
    counts = present.sum(0)
    return np.flatnonzero((counts >= FEWEST) & (counts <= len(present) - FEWEST))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 in each column, ties their mean: float64 `[S, K]`."""
    from scipy.stats import rankdata

    found: np.ndarray = rankdata(values, axis=0)
    return found


def _correlation(ranks: np.ndarray, present: np.ndarray) -> np.ndarray:
    """`[K, C]`; 0 where a unit has one value in all samples."""

    def standard(x: np.ndarray) -> np.ndarray:
        x = x - x.mean(0)
        return x / np.maximum(np.linalg.norm(x, axis=0), 1e-30)

    return standard(ranks).T @ standard(present)


def drawn_samples(store: Store, samples: int = SAMPLES, *, seed: int = 0) -> np.ndarray:
    """Up to `samples` samples, drawn by the seed: int64 `[S]`, ascending."""
    every = np.sort(np.array([s.sample for s in store.samples], np.int64))
    if len(every) <= samples:
        return every
    return every[np.sort(Permutation(len(every), seed)(range(samples)))]


def sample_extremes(
    store: Store, site: str, coders: dict[str, Coder], *, samples: int = SAMPLES, tokens: str | None = None,
    split: str | None = None, seed: int = 0,
) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:  # fmt: skip
    """Of up to `samples` samples, drawn by the seed: which, int64 `[S]`, ascending, and of each coder the
    highest and the lowest code of every unit among a sample's rows, float32 `[S, K]` both. One pass.

    SelectionError where no row is left, NonFiniteError where one holds NaN or inf."""
    every = drawn_samples(store, samples, seed=seed)
    rows = _rows_of(store, site, every) if len(every) < len(store.samples) else None
    # Arrays of their final size: small ones kept of each batch would lie between the freed large ones.
    seen = torch.zeros(len(every), dtype=torch.bool)
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    loader = store.batches(_BLOCK, sites=[site], dtype=torch.float32, tokens=tokens, split=split, rows=rows)
    with loader:
        for batch in loader:
            index = torch.from_numpy(np.searchsorted(every, batch.rows.sample.numpy()))
            seen[index] = True
            x = finite(batch, site)
            for name, coder in coders.items():
                codes = coder.encode_dense(x).cpu()
                if name not in found:
                    high = torch.full((len(every), codes.shape[1]), -torch.inf)
                    found[name] = high, -high
                at = index[:, None].expand_as(codes)
                for kept, how in zip(found[name], ("amax", "amin"), strict=True):
                    kept.scatter_reduce_(0, at, codes, how)
    if not seen.any():
        raise SelectionError(
            f"names: got no row of {site} with tokens={tokens}, split={split}, expected some"
        )
    return every[seen.numpy()], {
        name: (high[seen].numpy(), low[seen].numpy()) for name, (high, low) in found.items()
    }


def _rows_of(store: Store, site: str, samples: np.ndarray) -> np.ndarray:
    """Logical rows of some samples, ascending: int64."""
    table = store[site].rows
    found: Sequence[np.ndarray] = [
        start + np.flatnonzero(np.isin(table[start : start + (1 << 20)].sample.numpy(), samples))
        for start in range(0, len(store[site]), 1 << 20)
    ]
    return np.concatenate([np.empty(0, np.int64), *found])
