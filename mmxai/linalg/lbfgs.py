"""Many smooth convex minimisations in step, each by preconditioned L-BFGS with a line search of its own.

One evaluation serves all problems, so that whoever evaluates can make one thick product of them; a problem
whose trial step was too long asks for a shorter one while the others go on (Nocedal and Wright 2006, ch. 7).
"""

from __future__ import annotations

from collections import deque

import torch

_SUFFICIENT = 1e-4  # of the decrease that the slope promises (Armijo)
_NOISE = 2e-7  # of a value: sums of float32 terms cannot tell smaller differences
_CURVED = 1e-10  # cosine of step and change of gradient below which a pair tells nothing
_PATIENCE = 6  # refusals in a row until a problem forgets its pairs, and twice as many until it gives up


class BatchedLBFGS:
    """Minimises P functions of K parameters each; evaluate all at `trial`, then `tell`.

    start: `[P, K]` float32 or float64. history: pairs of step and gradient change that are kept. tolerance: a
    problem is done when half its Newton decrement, which estimates how far its value is above the least, is
    at most this share of the value (or of `floor`, where the value is smaller).

    `point`, `value` (float64 `[P]`), `finished`, `converged` (bool `[P]`) are of the best so far. A finished
    problem may be told more, which does not hurt it; `keep` drops problems.
    """

    def __init__(
        self, start: torch.Tensor, *, tolerance: float = 1e-5, floor: float = 1e-6, history: int = 8
    ):
        problems = len(start)
        self.tolerance, self.floor = tolerance, floor
        self.trial = self.point = start
        self.value = torch.full((problems,), torch.inf, dtype=torch.float64, device=start.device)
        self.finished = torch.zeros(problems, dtype=torch.bool, device=start.device)
        self.converged = self.finished.clone()
        self._gradient = torch.zeros_like(start)
        self._direction = torch.zeros_like(start)
        self._scale = torch.ones_like(start[:, 0])
        self._slope = torch.zeros_like(self.value)
        self._step = torch.ones_like(self.value)
        self._refused = torch.zeros_like(self.value, dtype=torch.int64)
        self._pairs: deque[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = deque(maxlen=history)
        self._begun = False

    def tell(self, value: torch.Tensor, gradient: torch.Tensor, inverse: torch.Tensor) -> None:
        """value float64 `[P]` and gradient `[P, K]` at `trial`; inverse `[P, K]`, positive: the diagonal of a
        guess at the inverse Hessian, which may change from call to call."""
        if self._begun:
            taken = self._accept(value)
            self._remember(gradient, inverse, taken)
            self._shorten(value, taken)
        else:
            taken = torch.ones_like(self.finished)
            self._begun = True
        self.point = _where(taken, self.trial, self.point)
        self.value = torch.where(taken, value, self.value)
        self._gradient = _where(taken, gradient, self._gradient)
        self._turn(inverse)
        self._judge(inverse, taken)
        self.trial = torch.addcmul(self.point, self._step[:, None].to(self.point.dtype), self._direction)

    def keep(self, which: torch.Tensor) -> None:
        """Go on with the problems of index `which` alone, in that order."""
        for name in ("trial", "point", "value", "finished", "converged",
                     "_gradient", "_direction", "_scale", "_slope", "_step", "_refused"):  # fmt: skip
            setattr(self, name, getattr(self, name)[which])
        for _ in range(len(self._pairs)):  # one at a time: they are most of the memory
            s, y, rho = self._pairs.popleft()
            self._pairs.append((s[which], y[which], rho[which]))

    def _accept(self, value: torch.Tensor) -> torch.Tensor:
        """Where the trial is better than the point by enough; NaN is not."""
        promised = _SUFFICIENT * self._step * self._slope
        return value <= self.value + promised + _NOISE * self.value.abs()

    def _remember(self, gradient: torch.Tensor, inverse: torch.Tensor, taken: torch.Tensor) -> None:
        s, y = self.trial - self.point, gradient - self._gradient
        sy = _dot(s, y)
        known = taken & (sy > _CURVED * (_dot(s, s) * _dot(y, y)).sqrt())
        if known.any():
            # A pair of 0 says nothing of a problem: the recursion passes it by.
            self._pairs.append((_where(known, s, 0.0), _where(known, y, 0.0), _where(known, 1 / sy, 0.0)))
        # What the newest pair makes of the guess.
        self._scale = torch.where(known, sy / _dot(y, inverse * y), self._scale)

    def _shorten(self, value: torch.Tensor, taken: torch.Tensor) -> None:
        rise = value - self.value - self._step * self._slope
        least = (-self._slope * self._step**2 / (2 * rise)).nan_to_num(0.0, 0.0, 0.0)  # of the parabola
        shorter = torch.minimum(torch.maximum(least, 0.1 * self._step), 0.5 * self._step)
        self._refused = torch.where(taken, 0, self._refused + 1)
        forget = self._refused == _PATIENCE
        if forget.any():
            forget &= torch.stack([rho > 0 for *_, rho in self._pairs]).any(0) if self._pairs else False
            self._forget(forget)
        self._step = torch.where(taken | forget, 1.0, shorter)

    def _turn(self, inverse: torch.Tensor) -> None:
        """The direction, by the two loops over the pairs."""
        q = self._gradient.clone()
        along = []
        for s, y, rho in reversed(self._pairs):
            along.append(rho * _dot(s, q))
            q -= along[-1][:, None] * y
        q *= inverse * self._scale[:, None]
        for s, y, rho in self._pairs:
            q += (along.pop() - rho * _dot(y, q))[:, None] * s
        slope = -_dot(q, self._gradient).double()
        if (uphill := slope >= 0).any():
            self._forget(uphill)
            q = _where(uphill, self._gradient * inverse * self._scale[:, None], q)
            slope = -_dot(q, self._gradient).double()
        self._direction, self._slope = -q, slope

    def _judge(self, inverse: torch.Tensor, taken: torch.Tensor) -> None:
        plain = _dot(self._gradient, inverse * self._gradient).double()
        excess = torch.maximum(plain, -self._slope) / 2
        small = excess <= self.tolerance * self.value.abs().clamp(min=self.floor)
        self.converged |= taken & small
        self.finished |= self.converged | (self._refused >= 2 * _PATIENCE)

    def _forget(self, which: torch.Tensor) -> None:
        left = [(s, y, torch.where(which, 0.0, rho)) for s, y, rho in self._pairs]
        self._pairs = deque(left, maxlen=self._pairs.maxlen)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vecdot(a, b)


def _where(which: torch.Tensor, a: torch.Tensor, b: torch.Tensor | float) -> torch.Tensor:
    """Rows of `a` where `which`, else of `b`."""
    return torch.where(which.view(-1, *[1] * (a.ndim - 1)), a, b)
