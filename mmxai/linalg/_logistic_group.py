"""The problems of `fit_logistic` that have one number of columns, and what a pass makes of them.

Problems stand fit-major, then by task, then by C: those that leave a fold out are one range, and a segment of
that fold's rows meets the weights before and after it, as they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mmxai.linalg._logistic_rows import Scale
from mmxai.linalg.lbfgs import BatchedLBFGS

if TYPE_CHECKING:
    from mmxai.linalg.logistic import LogisticFit

_CHUNK = 1 << 19  # logits at a time: 2 MiB, which stay in the cache from one product to the other
_LEAST_ROWS = 256  # of a chunk
_SPREAD_EVERY = 8  # chunks, of which one tells how far from certain the predictions are
_CERTAIN = 25.0  # logit of the only class there is: a loss of 1e-11 nats
_DROP_AT = 0.1  # share of finished problems from which the arrays are made smaller


class Group:
    """`tasks` that have `columns` columns, times fits, times Cs.

    A problem's parameters are `[columns, D + 1]` in the principal axes, the intercept last; its value is the
    mean loss of its rows plus the penalty: scikit-learn's objective over C times their number.
    """

    def __init__(
        self, scale: Scale, tasks: Sequence[int], columns: int, Cs: Sequence[float], folds: int, fits: int,
        tolerance: float, history: int,
    ):  # fmt: skip
        self._scale, self._columns = scale, columns
        device = scale.mean.device
        grid = torch.cartesian_prod(
            torch.arange(fits), torch.tensor(list(tasks)), torch.arange(len(Cs))
        ).view(-1, 3)
        self._fit, self._task, self._penalty = grid.to(device).unbind(1)
        self._folds = folds
        counts = torch.stack([self._without(scale.counts[t], f).sum() for f, t, _ in grid.tolist()])
        self._rows = counts.to(device).clamp(min=1)
        self._C = torch.tensor(Cs, dtype=torch.float64, device=device)[self._penalty]
        self._passes = torch.zeros(len(grid), dtype=torch.int64, device=device)
        self._spread = torch.full((len(grid),), 1 / max(columns, 4 if columns == 1 else 0), device=device)
        start, alone = self._ridge(grid), self._alone(grid).to(device)
        places = start.view(len(grid), columns, scale.width + 1)
        places[alone >= 0] = 0
        for i in (alone >= 0).nonzero()[:, 0].tolist():
            own = int(alone[i])
            places[i, own if columns > 1 else 0, -1] = _CERTAIN if columns > 1 or own else -_CERTAIN
        self._minimise = BatchedLBFGS(start, tolerance=tolerance, history=history)
        # Nothing is left to find: the least is at infinity, and steps towards it drown in rounding.
        self._minimise.converged |= alone >= 0
        self._minimise.finished |= alone >= 0
        self._logits = torch.empty(0, device=device)

    @property
    def open(self) -> int:
        """Problems left."""
        return len(self._fit)

    def begin(self) -> None:
        """A pass begins: the weights at the trial point, in the rows' own axes."""
        trial = self._minimise.trial.view(-1, self._scale.width + 1)
        self._weights = torch.empty_like(trial)
        torch.mm(trial[:, :-1], self._scale.axes.T, out=self._weights[:, :-1])
        self._weights[:, -1] = trial[:, -1]
        self._gradient = torch.zeros_like(trial)
        self._loss = torch.zeros(self.open, dtype=torch.float64, device=trial.device)
        self._unsure = torch.zeros(self.open, device=trial.device)
        self._seen = torch.zeros_like(self._unsure)
        self._chunks = 0

    def add(self, held: int, rows: torch.Tensor, labels: torch.Tensor) -> None:
        """Take in rows `[n, D + 1]` of fold `held`, labels `[n, tasks]`."""
        own = (self._fit == held).nonzero()[:, 0]
        low, high = (int(own[0]), int(own[-1]) + 1) if self._folds and len(own) else (0, 0)
        for part in (slice(0, low), slice(high, self.open)):
            width = (part.stop - part.start) * self._columns
            size = max(_LEAST_ROWS, _CHUNK // max(width, 1))
            for start in range(0, len(rows) if width else 0, size):
                self._evaluate(part, rows[start : start + size], labels[start : start + size])

    def end(self) -> None:
        """The pass ends: penalty and scale, and the minimiser is told."""
        minimise, width = self._minimise, self._scale.width
        trial = minimise.trial.view(self.open, self._columns, width + 1)
        gradient = self._gradient.view_as(trial)
        gradient[..., :-1] = gradient[..., :-1] @ self._scale.axes
        gradient /= self._rows.float()[:, None, None]
        weight = 1 / (self._C * self._rows)
        gradient[..., :-1] += weight.float()[:, None, None] * trial[..., :-1]
        value = self._loss / self._rows + weight / 2 * trial[..., :-1].double().square().sum((1, 2))
        self._spread = torch.where(self._seen > 0, self._unsure / self._seen, self._spread).clamp(min=1e-6)
        inverse = self._inverse()[:, None].expand_as(trial).reshape(self.open, -1)
        minimise.tell(value, gradient.view(self.open, -1), inverse)
        self._passes += 1

    def release(self, found: LogisticFit, everything: bool = False) -> None:
        """Write what is finished to `found` and drop it; not a few at a time, since dropping copies."""
        finished = self._minimise.finished
        done = int(finished.sum())
        if not everything and (done < self.open and done <= _DROP_AT * self.open):
            return
        leave = (finished | everything).nonzero()[:, 0]
        self._write(found, leave)
        stay = (~(finished | everything)).nonzero()[:, 0]
        self._minimise.keep(stay)
        for name in ("_fit", "_task", "_penalty", "_rows", "_C", "_passes", "_spread"):
            setattr(self, name, getattr(self, name)[stay])

    def _evaluate(self, part: slice, rows: torch.Tensor, labels: torch.Tensor) -> None:
        columns, count = self._columns, len(rows)
        lines = slice(part.start * columns, part.stop * columns)
        size = (lines.stop - lines.start) * count
        if self._logits.numel() < size:
            self._logits = torch.empty(size, device=rows.device)
        flat = self._logits[:size].view(-1, count)
        torch.mm(self._weights[lines], rows.T, out=flat)
        z = flat.view(-1, columns, count)
        y = labels.T[self._task[part]]  # [problems, n]
        unlabelled = y < 0 if bool((labels < 0).any()) else None
        y = y if unlabelled is None else y.clamp(min=0)
        look = self._chunks % _SPREAD_EVERY == 0 or bool((self._seen[part] == 0).any())
        loss, unsure = (_binary if columns == 1 else _multinomial)(z, y, look)
        if look:
            self._unsure[part] += unsure
            self._seen[part] += count
        if unlabelled is not None:
            z.masked_fill_(unlabelled[:, None], 0.0)
            loss.masked_fill_(unlabelled, 0.0)
        self._loss[part] += loss.sum(1, dtype=torch.float64)
        self._chunks += 1
        self._gradient[lines].addmm_(flat, rows)

    def _ridge(self, grid: torch.Tensor) -> torch.Tensor:
        """Newton's step from 0, the fold's scatter taken as its share of all."""
        scale, columns = self._scale, self._columns
        start = torch.zeros(len(grid), columns, scale.width + 1, device=scale.mean.device)
        for i, (fit, task, _) in enumerate(grid.tolist()):
            counts = self._without(scale.counts[task], fit)
            sums = self._without(scale.sums[task], fit)
            classes = len(counts)
            residual = counts - counts.sum() / classes
            along = sums - sums.sum(0) / classes
            pick = slice(1, 2) if columns == 1 else slice(None)
            start[i, :, -1] = residual[pick].float()
            start[i, :, :-1] = along[pick].float() @ scale.axes
        start /= self._rows.float()[:, None, None]
        return (start * self._inverse()[:, None]).view(len(grid), -1)

    def _alone(self, grid: torch.Tensor) -> torch.Tensor:
        """int64 `[problems]`: the class that all rows of a fit are of; -1: they are of several, or none."""
        found = []
        for fit, task, _ in grid.tolist():
            there = self._without(self._scale.counts[task], fit).nonzero()[:, 0].tolist()
            found.append(there[0] if len(there) == 1 else -1)
        return torch.tensor(found, dtype=torch.int64)

    def _inverse(self) -> torch.Tensor:
        """`[problems, D + 1]`: one over variance times spread plus penalty, that of the intercept without."""
        penalty = (1 / (self._C * self._rows)).float()[:, None]
        curvature = torch.cat([self._scale.variances, torch.ones_like(self._scale.variances[:1])])
        inner = self._spread[:, None] * curvature
        inner[:, :-1] += penalty
        return 1 / inner.clamp(min=1e-30)

    def _without(self, by_fold: torch.Tensor, fit: int) -> torch.Tensor:
        total = by_fold.sum(0)
        return total - by_fold[fit] if fit < self._folds else total

    def _write(self, found: LogisticFit, which: torch.Tensor) -> None:
        points = self._minimise.point[which].double().view(-1, self._columns, self._scale.width + 1)
        coef = points[..., :-1] @ self._scale.axes.double().T
        intercept = points[..., -1] - coef @ self._scale.mean.double()
        objective = self._minimise.value[which] * self._C[which] * self._rows[which]
        for i, problem in enumerate(which.tolist()):
            at = int(self._penalty[problem]), int(self._fit[problem])
            task = int(self._task[problem])
            found.coef[task][at] = coef[i].cpu()
            found.intercept[task][at] = intercept[i].cpu()
            found.objective[task][at] = objective[i].cpu()
            found.passes[task][at] = self._passes[problem].cpu()
            found.converged[task][at] = self._minimise.converged[problem].cpu()


def chunk_bytes(lines: int) -> int:
    """Of the logits of so many columns of problems that are under way, and what is made of them."""
    return 4 * 4 * max(_CHUNK, _LEAST_ROWS * lines)


def _multinomial(z: torch.Tensor, y: torch.Tensor, look: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Of logits z `[p, classes, n]` and labels `[p, n]`: losses `[p, n]`, and where asked `[p]` the sum over
    rows of a class's mean variance (of probabilities all equal: 1 / classes). z becomes probability minus
    indicator."""
    index = y[:, None]
    z -= z.amax(1, keepdim=True)
    chosen = z.gather(1, index)
    total = z.exp_().sum(1, keepdim=True)
    z /= total
    unsure = (z.shape[2] - z.square().sum((1, 2))) / (z.shape[1] - 1) if look else z.new_zeros(())
    z.scatter_add_(1, index, z.new_full((1, 1, 1), -1.0).expand_as(index))
    return total.log_().sub_(chosen)[:, 0], unsure


def _binary(z: torch.Tensor, y: torch.Tensor, look: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of one column, z `[p, 1, n]`."""
    one = z[:, 0]
    label = y.to(one.dtype)
    loss = torch.nn.functional.softplus(one) - label * one
    one.sigmoid_()
    unsure = (one - one.square()).sum(1) if look else z.new_zeros(())
    one -= label
    return loss, unsure
