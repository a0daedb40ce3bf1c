"""The specification of `capture`."""

from __future__ import annotations

import torch

from mmxai.kernels._convert import convert
from mmxai.kernels.capture.state import NeuronState


def supports(
    x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor | None, state: NeuronState | None
) -> str | None:
    return None


def capture(
    x: torch.Tensor,
    index: torch.Tensor | None,
    out: torch.Tensor | None,
    state: NeuronState | None,
    row0: int,
    samples: torch.Tensor | None,
    scales: torch.Tensor | None,
    threads: int,
) -> int:
    rows = x.reshape(-1, x.shape[2])
    rows = rows if index is None else rows[index]
    stored, overflow = rows, 0
    if out is not None and scales is not None:
        stored = convert(rows, torch.bfloat16)
        _quantise(convert(rows, torch.float32), out, scales)
    elif out is not None:
        stored = convert(rows, out.dtype)
        out.copy_(stored)
        overflow = int(rows.isfinite().sum() - stored.isfinite().sum())
    if state is not None:
        _update(state, convert(stored, torch.float32), row0, samples)
    return overflow


def _quantise(x: torch.Tensor, out: torch.Tensor, scales: torch.Tensor) -> None:
    scales.copy_(torch.where(x.isfinite(), x.abs(), 0).amax(1) / 127)
    steps = torch.where(scales[:, None] > 0, x / scales[:, None], 0).round().clamp(-127, 127)
    steps = torch.where(x.isinf(), 127 * x.sign(), steps)
    out.copy_(steps.nan_to_num(0))


def _update(state: NeuronState, x: torch.Tensor, row0: int, samples: torch.Tensor | None) -> None:
    finite = x.isfinite()
    before, n = state.finite.clone(), finite.sum(0)
    signs = (x.isnan(), x == torch.inf, x == -torch.inf, finite & (x > 0))
    state.tallies += torch.stack([s.sum(0) for s in signs])
    wide = torch.where(finite, x, 0).to(torch.float64)
    mean = wide.sum(0) / n.clamp(min=1)
    m2 = torch.where(finite, wide - mean, 0).square().sum(0)
    delta, weight = mean - state.moments[state.MEAN], n / (before + n).clamp(min=1)
    state.moments[state.MEAN] += delta * weight
    state.moments[state.M2] += m2 + delta * delta * (before * weight)
    low, high = torch.where(finite, x, torch.inf) + 0.0, torch.where(finite, x, -torch.inf) + 0.0
    state.extremes[state.MIN] = torch.minimum(state.extremes[state.MIN], low.amin(0))
    state.extremes[state.MAX] = torch.maximum(state.extremes[state.MAX], high.amax(0))
    _offer(state.top_values, state.top_rows, state.top_samples, high, row0, samples)
    if state.bottom_values is not None and state.bottom_rows is not None:
        values = -state.bottom_values
        _offer(values, state.bottom_rows, state.bottom_samples, -low, row0, samples)
        state.bottom_values.copy_(0.0 - values)


def _offer(
    values: torch.Tensor,
    rows: torch.Tensor,
    owners: torch.Tensor | None,
    x: torch.Tensor,
    row0: int,
    samples: torch.Tensor | None,
) -> None:
    """Replace `values` and `rows` `[k, D]` by the k largest of them and of `x` `[N, D]` (-inf: nothing).

    The lists come first and rows in order, so that the first of equal values is the one of the lower row.
    """
    ids = torch.arange(row0, row0 + len(x), device=x.device)
    x = torch.cat([values, x])
    ids = torch.cat([rows, ids[:, None].expand(-1, x.shape[1])])
    if owners is not None and samples is not None:
        who = torch.cat([owners, samples[:, None].expand(-1, x.shape[1])])
    for rank in range(len(values)):
        best = x.argmax(0, keepdim=True)
        values[rank] = x.gather(0, best)
        none = values[rank] == -torch.inf
        rows[rank] = torch.where(none, -1, ids.gather(0, best)[0])
        x.scatter_(0, best, -torch.inf)
        if owners is not None:
            owners[rank] = torch.where(none, -1, who.gather(0, best)[0])
            x = torch.where(who == owners[rank], -torch.inf, x)
