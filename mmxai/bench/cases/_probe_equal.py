"""Whether the sides of case `probe` found the same: coefficients, objectives, held-out R², all in float64."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.bench.cases._probe_ours import Fits, Side


def coef_error(coef: np.ndarray, exact: np.ndarray) -> float:
    """The largest over fits of |coef - exact| / |exact|; both `[penalties, folds, tasks, classes, D]`."""
    away = np.linalg.norm(coef - exact, axis=(-2, -1)) / np.linalg.norm(exact, axis=(-2, -1))
    return float(away.max())


def objectives_apart(side: Side, ours: Fits, theirs: Fits) -> np.ndarray:
    """Our objective less theirs, over theirs, of every fit of the first site: `[penalties, folds, tasks]`."""
    rows = _rows(side)
    mine, other = (_objectives(side, rows, fits) for fits in (ours, theirs))
    return mine / other - 1


def held_out_r2(side: Side, coef: np.ndarray, intercept: np.ndarray) -> float:
    """R² of the class indicators on held-out rows, mean over folds, of each target's best penalty; mean over
    targets. `coef` predicts -1 and 1."""
    rows, folds = _rows(side), coef.shape[1]
    found = np.zeros((folds, coef.shape[0], coef.shape[2], coef.shape[3]))
    for f in range(folds):
        held = side.fold == f
        y = torch.nn.functional.one_hot(side.labels[held], coef.shape[3]).double()
        spread = (y - y.mean(0)).square().sum(0)
        for p in range(len(coef)):
            made = torch.einsum("nd,tcd->ntc", rows[held], torch.from_numpy(coef[p, f]))
            made = (made + torch.from_numpy(intercept[p, f]) + 1) / 2
            found[f, p] = (1 - (made - y).square().sum(0) / spread).numpy()
    return float(found.mean(0).max(0).mean())


def _rows(side: Side) -> torch.Tensor:
    site = next(iter(side.store.values()))
    return site[0 : len(site)].double()


def _objectives(side: Side, rows: torch.Tensor, fits: Fits) -> np.ndarray:
    coef, intercept = (torch.from_numpy(v).double() for v in fits)
    found = np.zeros(coef.shape[:3])
    for p, f, t in np.ndindex(*found.shape):
        kept = side.fold != f
        logits = rows[kept] @ coef[p, f, t].T + intercept[p, f, t]
        loss = torch.nn.functional.cross_entropy(logits, side.labels[kept, t], reduction="sum")
        found[p, f, t] = float(loss / side.job["penalties"][p] + coef[p, f, t].square().sum() / 2)
    return found
