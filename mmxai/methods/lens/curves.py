"""What states say on average: figures by token type, with intervals over samples, in memory that
does not grow with rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmxai.methods.lens.passes import Found
from mmxai.types import TOKEN_TYPES, Rows

BUCKETS = 256
"""Groups of samples that are drawn together where there are more samples than that."""

_RESAMPLES, _CONFIDENCE = 1000, 0.95


@dataclass(frozen=True)
class Curve:
    """A figure of every state, over `rows` rows of a token type ("all": of every type).

    mean, low, high: float64 `[S]`; the interval is NaN where there is one sample alone.
    """

    figure: str
    type: str
    rows: int
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Tally:
    """Sums of each figure, by state, token type and bucket of samples.

    Figures: entropy and KL in nats; agreement, whether a state's first is the final one's; of each target its
    log-probability, its rank (0: first), and whether it comes first.
    """

    def __init__(self, states: int, targets: Sequence[str], final: bool):
        self.figures = ["entropy", *(("kl", "agreement") if final else ())]
        for name in targets:
            self.figures += [
                f"log-probability of {name}",
                f"log10(1 + rank) of {name}",
                f"{name} comes first",
            ]
        self.final, self.targets = final, list(targets)
        self._sums: dict[int, np.ndarray] = {}  # type -> [buckets, 1 + S, figures] values, and how many
        self._rows: dict[int, int] = {}
        self._shape = (BUCKETS, states, len(self.figures))

    def add(self, found: Found, rows: Rows) -> None:
        values = [found.entropy]
        if self.final:
            assert found.kl is not None and found.best is not None
            values += [found.kl, (found.ids[..., 0] == found.best).float()]
        for t in range(len(self.targets)):
            missing = found.target_ranks[..., t] < 0
            ranks = found.target_ranks[..., t].float().masked_fill(missing, torch.nan)
            first = (ranks == 0).float().masked_fill(missing, torch.nan)
            values += [found.target_logprobs[..., t], (1 + ranks).log10(), first]
        stacked = torch.stack(values, -1).double().numpy()  # [S, N, figures]
        bucket = rows.sample.numpy() % BUCKETS
        kinds = rows.token_type.numpy()
        for kind in np.unique(kinds).tolist():
            own = kinds == kind
            sums = self._sums.setdefault(kind, np.zeros((2, *self._shape)))
            picked = stacked[:, own].transpose(1, 0, 2)
            known = np.isfinite(picked)
            np.add.at(sums[0], bucket[own], np.where(known, picked, 0))
            np.add.at(sums[1], bucket[own], known)
            self._rows[kind] = self._rows.get(kind, 0) + int(own.sum())

    def curves(self, seed: int = 0) -> list[Curve]:
        """Every figure of every type that was seen; those of all rows first."""
        if not self._sums:
            return []
        every = {"all": sum(self._sums.values())}
        rows = {"all": sum(self._rows.values())}
        if len(self._sums) > 1:
            every |= {_named(kind): sums for kind, sums in sorted(self._sums.items())}
            rows |= {_named(kind): n for kind, n in self._rows.items()}
        out = []
        for name, sums in every.items():
            mean, low, high = _interval(np.asarray(sums), seed)
            for i, figure in enumerate(self.figures):
                if np.isfinite(mean[:, i]).any():
                    out.append(Curve(figure, name, rows[name], mean[:, i], low[:, i], high[:, i]))
        return out


def _named(kind: int) -> str:
    return TOKEN_TYPES[kind] if kind >= 0 else "pooled"


def _interval(sums: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, and bootstrap interval over buckets, of sums `[2, buckets, S, figures]`, as ratios of sums."""
    total, count = sums.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        seen = np.flatnonzero(sums[1].any((1, 2)))
        if len(seen) < 2:
            return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        draws = np.random.default_rng(seed).multinomial(
            len(seen), np.full(len(seen), 1 / len(seen)), _RESAMPLES
        )
        total, count = (np.tensordot(draws.astype(float), sums[i][seen], 1) for i in (0, 1))
        tail = (1 - _CONFIDENCE) / 2
        ratios = total / count
        none = np.isnan(ratios).all(0)
        low, high = np.nanquantile(np.where(none, 0, ratios), [tail, 1 - tail], axis=0)
        low[none], high[none] = np.nan, np.nan
    return mean, low, high
