"""What a torch user writes for packing with running statistics: the plain way, and the best we know.

Each takes batches `[N, D]` and keeps mean, M2, least, largest and the k largest values with their rows. Less
work than ours: `capture` also looks for NaN and infinities, counts values above zero and settles ties.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


class Plain:
    """mean, var, amin, amax, a running top-k by cat and topk, and a cast."""

    def __init__(self, width: int, k: int):
        self.k, self.count = k, 0
        self.mean, self.m2 = torch.zeros(width), torch.zeros(width)
        self.low, self.high = torch.full((width,), torch.inf), torch.full((width,), -torch.inf)
        self.values = torch.full((k, width), -torch.inf)
        self.rows = torch.full((k, width), -1)

    def __call__(self, x: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(x)
        x = x.float()
        n = len(x)
        mean, var = x.mean(0), x.var(0)
        self._moments(n, mean, var * (n - 1))
        self.low = torch.minimum(self.low, x.amin(0))
        self.high = torch.maximum(self.high, x.amax(0))
        values, index = torch.cat([self.values, x]).topk(self.k, dim=0)
        held = self.rows.gather(0, index.clamp(max=self.k - 1))
        self.rows = torch.where(index < self.k, held, index - self.k + self.count)
        self.values = values
        self.count += n

    def _moments(self, n: int, mean: torch.Tensor, m2: torch.Tensor) -> None:
        total = self.count + n
        delta = mean - self.mean
        self.m2 += m2 + delta * delta * (self.count * n / total)
        self.mean += delta * (n / total)


class Best(Plain):
    """Blocks that stay in the cache, moments as two products, and only values above the k-th looked at.

    The products are of a row of ones with the block and with its squares, about the first row (so that a
    large mean does not cancel). Extremes by halves: torch.maximum runs at the speed of memory, amax along
    rows at a fifth of it. A block's largest values tell which columns can change at all; the first
    k-th values come from topk, and candidates are folded in whenever the rows seen have doubled.
    """

    def __init__(self, width: int, k: int, block: int | None = None):
        super().__init__(width, k)
        block = block or max(32, 1 << ((1 << 19) // width).bit_length() - 1)  # 1 to 2 MiB of float32
        self._ones = torch.ones(1, block)
        self._buffer, self._halves = torch.empty(block, width), torch.empty(block, width)
        self._shift: torch.Tensor | None = None
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._fold_at = 2 * block

    def __call__(self, x: torch.Tensor, out: torch.Tensor) -> None:
        if self._shift is None:
            self._shift = x[0].float()
        width, block = x.shape[1], self._ones.shape[1]
        total, square = torch.zeros(2, 1, width)
        for start in range(0, len(x), block):
            piece = x[start : start + block]
            out[start : start + block].copy_(piece)
            values = piece.float()
            high = self._by_halves(torch.maximum, values)
            self.low = torch.minimum(self.low, self._by_halves(torch.minimum, values))
            self.high = torch.maximum(self.high, high)
            self._offer(values, high, self.count + start)
            ones, buffer = self._ones[:, : len(piece)], self._buffer[: len(piece)]
            torch.sub(values, self._shift, out=buffer)
            total.addmm_(ones, buffer)
            square.addmm_(ones, buffer.mul_(buffer))
        self._fold()
        n = len(x)
        mean = total[0] / n
        self._moments(n, mean + self._shift, square[0] - total[0] * mean)
        self.count += n

    def _by_halves(self, extreme: Callable[..., torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        while len(x) > 8 and len(x) % 2 == 0:
            half = len(x) // 2
            x = extreme(x[:half], x[half:], out=self._halves[:half])
        return x.amax(0) if extreme is torch.maximum else x.amin(0)

    def _offer(self, x: torch.Tensor, high: torch.Tensor, row0: int) -> None:
        if row0 == 0 and len(x) >= self.k:
            self.values, self.rows = x.topk(self.k, dim=0)
            return
        threshold = self.values[-1]
        hot = (high > threshold).nonzero()[:, 0]
        if len(hot):
            if 2 * len(hot) < x.shape[1]:
                row, column = (x[:, hot] > threshold[hot]).nonzero(as_tuple=True)
                column = hot[column]
            else:
                row, column = (x > threshold).nonzero(as_tuple=True)
            self._waiting.append((column, x[row, column], row + row0))
        if row0 + len(x) >= self._fold_at:
            self._fold()
            self._fold_at *= 2

    def _fold(self) -> None:
        """Sort what waits, a column's largest first, beside what is held; keep k of each column."""
        if not self._waiting:
            return
        k, width = self.values.shape
        columns = torch.arange(width).expand(k, width).reshape(-1)
        held = (columns, self.values.reshape(-1), self.rows.reshape(-1))
        column, value, row = (torch.cat(c) for c in zip(held, *self._waiting, strict=True))
        bits = value.view(torch.int32)  # integers that sort as the floats do, so that one sort does
        key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
        order = ((column << 32) | (0x7FFFFFFF - key)).argsort(stable=True)
        counts = torch.bincount(column, minlength=width)
        first = order[(counts.cumsum(0) - counts) + torch.arange(k)[:, None]]
        self.values, self.rows = value[first], row[first]
        self._waiting = []


class Compiled(Best):
    """`Best` with its four passes over a block fused by torch.compile."""

    def __init__(self, width: int, k: int, block: int | None = None):
        super().__init__(width, k, block)
        self._pass: Callable[..., tuple[torch.Tensor, ...]] = torch.compile(_one_pass, dynamic=False)

    def __call__(self, x: torch.Tensor, out: torch.Tensor) -> None:
        if self._shift is None:
            self._shift = x[0].float()
        n, block = len(x), self._ones.shape[1]
        total, square = torch.zeros(2, x.shape[1])
        for start in range(0, n, block):
            piece = x[start : start + block]
            s, q, low, high = self._pass(piece, self._shift, out[start : start + block])
            total, square = total + s, square + q
            self.low = torch.minimum(self.low, low)
            self.high = torch.maximum(self.high, high)
            self._offer(piece.float(), high, self.count + start)
        self._fold()
        mean = total / n
        self._moments(n, mean + self._shift, square - total * mean)
        self.count += n


def _one_pass(x: torch.Tensor, shift: torch.Tensor, out: torch.Tensor) -> tuple[torch.Tensor, ...]:
    out.copy_(x)
    y = x.float()
    centred = y - shift
    return centred.sum(0), (centred * centred).sum(0), y.amin(0), y.amax(0)
