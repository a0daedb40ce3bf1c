"""The options of a fit; `mmxai decompose dictionary`'s are generated from this dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

from mmxai.errors import ArgumentError

Kind = Literal["pca", "ica", "nmf", "seminmf", "kmeans", "spherical"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class FitConfig:
    units: int = 64
    """Directions of each dictionary; of PCA and ICA at most the site's width."""
    centre: bool = True
    """seminmf, spherical: decompose what differs from the mean row. PCA and ICA always do, NMF and k-means
    never."""
    negative: Literal["refuse", "clip"] = "refuse"
    """nmf: what becomes of values below 0: an error, or 0 while it is fitted (figures are of the rows as they
    are)."""
    tokens: str | None = None
    """Token types to fit on, comma-separated; default: all."""
    split: Literal["train", "val", "test"] | None = "train"
    """Which samples to fit on; figures come from the test split."""
    rows: int | None = None
    """Fit on so many rows, drawn by the seed; default: all of the split."""
    sample: int = 32768
    """Rows held in memory, on which ICA, NMF and k-means run before they pass over all."""
    warm: int = 200
    """Most iterations over the sample."""
    passes: int = 12
    """Most passes over all rows."""
    tol: float = 1e-4
    """Stop where an iteration improves by less (NMF, k-means: of the error; ICA: 1 - |cosine| of a unit with
    itself)."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("units", "rows", "sample", "warm", "passes"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ArgumentError(f"decompose: got {name}={value!r}, expected a whole number of at least 1")
        if not 0 < self.tol < inf or self.seed < 0:
            raise ArgumentError(
                f"decompose: got tol={self.tol}, seed={self.seed}, expected tol > 0 and seed >= 0"
            )
        for name, known in (("negative", ("refuse", "clip")), ("split", (None, "train", "val", "test"))):
            if getattr(self, name) not in known:
                raise ArgumentError(
                    f"decompose: got {name}={getattr(self, name)!r}, expected one of {list(known)}"
                )
        if self.sample < self.units:
            raise ArgumentError(
                f"decompose: got a sample of {self.sample:,} rows for {self.units:,} units, expected at "
                "least as many rows"
            )
