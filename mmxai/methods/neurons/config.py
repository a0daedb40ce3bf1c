"""The options of a survey of neurons; the command line is generated from this dataclass."""

from __future__ import annotations

from dataclasses import dataclass

from mmxai.errors import ArgumentError


@dataclass(frozen=True)
class NeuronsConfig:
    tokens: str | None = None
    """Token types looked at, comma-separated: cls patch register special text image; or 'last'. All when not
    given."""
    split: str | None = None
    """Only samples of this split: train, val or test. Default: all."""
    heads: int | None = None
    """Heads side by side in a row of a z site, each a unit by its norm. Default: as the store says; 0: none,
    columns one by one."""
    exemplars: int = 16
    """Highest rows kept of each unit, and highest samples."""
    drawn: int = 4
    """Rows drawn at random from each band of a unit's range."""
    near: int = 8
    """Nearest other units kept of each."""
    duplicate: float = 0.95
    """Units whose values correlate by at least so much, with either sign, are near-duplicates."""
    redundancy_rows: int = 65_536
    """Rows over which units are correlated with one another: all, or so many at random (of more than 4,096
    units fewer)."""
    memory: int = 1 << 30
    """Bytes for the counts behind AUCs, then for the products of pairs of units. AUCs are the finer for it;
    where even the coarsest counts do not fit, units go in groups, a further pass each."""
    seed: int = 0
    """Seed of the rows drawn."""

    def __post_init__(self) -> None:
        least = min(self.exemplars, self.drawn, self.near, self.redundancy_rows)
        if least < 1 or not 0 < self.duplicate <= 1:
            raise ArgumentError(
                f"neurons: got exemplars={self.exemplars}, drawn={self.drawn}, near={self.near}, "
                f"redundancy_rows={self.redundancy_rows}, duplicate={self.duplicate}; expected at least 1 of "
                "each, and a duplicate above 0, at most 1"
            )
