"""NMF (Lee and Seung 1999) and semi-NMF (Ding, Li and Jordan 2010) of streamed rows: x ~ h @ F, h >= 0.

Codes of a block are its exact non-negative least squares; of a pass only H'H and H'X are kept, from which the
directions F follow: by coordinate descent where F >= 0 (NMF), in closed form where F has any sign (semi-NMF).
So each pass lowers the error, and memory is K (K + D). scikit-learn has no semi-NMF, and its MiniBatchNMF
takes multiplicative steps, which come closer the slower they get.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.decompose.alternate import alternate
from mmxai.methods.decompose.kmeans import fit_kmeans
from mmxai.methods.decompose.nonnegative import descend, nonnegative_codes
from mmxai.methods.decompose.stream import Blocks

_RIDGE = 1e-8  # of the mean of H'H's diagonal, so that units alike do not make it singular
_BEGIN, _FLOOR = 20, 1e-2
_TOL, _SWEEPS, _AGAIN = 1e-3, 50, 12
"""Codes while fitting: how exact, the most sweeps, and the most from the codes of the last step."""


def fit_nmf(
    sample: torch.Tensor,
    rows: Blocks | None,
    units: int,
    *,
    semi: bool = False,
    offset: torch.Tensor | None = None,
    negative: Literal["refuse", "clip"] = "refuse",
    warm: int = 200,
    passes: int = 12,
    tol: float = 1e-4,
    seed: int = 0,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Directions float32 `[units, D]` of norm 1, and facts.

    Over `sample` `[n, D]` (at most `warm` times), then over `rows` (at most `passes`; None: the sample is
    all), until the error falls by less than the share `tol`. `semi`: directions of any sign, of rows less
    `offset`. NMF of rows with values below 0 is an ArgumentError, unless `negative` is "clip": they then
    count as 0.
    """
    shift = torch.zeros(sample.shape[1]) if offset is None else offset.float()

    def ready(x: torch.Tensor) -> torch.Tensor:
        if semi:
            return x - shift
        if negative == "refuse" and (low := float(x.min())) < 0:
            raise ArgumentError(
                f"nmf: got a value of {low:.3g}, expected values of 0 or more; use seminmf, or "
                "negative='clip'"
            )
        return x.clamp(min=0)

    def over_rows(blocks: Iterator[torch.Tensor], directions: torch.Tensor) -> tuple[torch.Tensor, float]:
        codes = ((x, nonnegative_codes(x, directions, tol=_TOL, sweeps=_SWEEPS)) for x in blocks)
        new, error = _pass(codes, directions, semi)
        return _unit(new), error

    held: torch.Tensor | None = None

    def over_sample(blocks: Iterator[torch.Tensor], directions: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Codes of the sample fit in memory: they go on from the last step's, a few sweeps each time."""
        nonlocal held
        (x,) = blocks
        held = nonnegative_codes(x, directions, held, tol=_TOL, sweeps=_SWEEPS if held is None else _AGAIN)
        new, error = _pass(iter([(x, held)]), directions, semi)
        held *= new.norm(dim=1)
        return _unit(new), error

    ready_sample = ready(sample)
    first = _first(ready_sample, units, semi, seed)
    return alternate(
        over_rows,
        first,
        ready_sample,
        rows,
        ready,
        sample_step=over_sample,
        warm=warm,
        passes=passes,
        tol=tol,
    )


def _first(rows: torch.Tensor, units: int, semi: bool, seed: int) -> torch.Tensor:
    """Centroids of spherical k-means, as Ding et al. have it: rows of one direction, however long."""
    some = rows[rows.norm(dim=1) > 0]
    if len(some) < units:
        raise ArgumentError(
            f"{'seminmf' if semi else 'nmf'}: got {len(some)} rows other than 0{' (less their mean)' * semi} "
            f"for {units} units, expected as many at least"
        )
    directions, _ = fit_kmeans(some, None, units, spherical=True, warm=_BEGIN, seed=seed)
    # An entry that is 0 would hardly leave it.
    return directions if semi else _unit(directions + _FLOOR * directions.mean())


def _pass(
    codes: Iterator[tuple[torch.Tensor, torch.Tensor]], directions: torch.Tensor, semi: bool
) -> tuple[torch.Tensor, float]:
    """The best directions for blocks of rows and their codes, of any length, and the mean squared error (a
    row) with those that came in."""
    units, width = directions.shape
    hh = torch.zeros(units, units, dtype=torch.float64)
    hx = torch.zeros(units, width, dtype=torch.float64)
    error, count, worst = 0.0, 0, (-1.0, torch.zeros(width))
    for x, h in codes:
        wrong = torch.addmm(x, h, directions, alpha=-1)
        each = wrong.square().sum(1)
        hh += (h.T @ h).double()
        hx += (h.T @ x).double()
        error += float(each.double().sum())
        count += len(x)
        at = int(each.argmax())
        if float(each[at]) > worst[0]:
            worst = float(each[at]), (wrong[at] if semi else x[at]).clone()
    if semi:
        ridge = _RIDGE * hh.diagonal().mean().clamp(min=1e-300) * torch.eye(units, dtype=torch.float64)
        new = torch.linalg.solve(hh + ridge, hx)
    else:
        new = descend(hh, hx.T, directions.T.double()).T
    dead = new.norm(dim=1) <= 1e-12 * new.norm(dim=1).max()
    dead |= hh.diagonal() <= 0
    if dead.any():  # one a pass: two that began at the same row would stay the same
        new[dead.nonzero()[0, 0]] = worst[1].double()
    return new.float(), error / count


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)
