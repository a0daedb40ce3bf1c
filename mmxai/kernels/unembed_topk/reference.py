"""The specification of `unembed_topk`: the logits of some rows at a time, dense."""

from __future__ import annotations

import torch

from mmxai.kernels.topk_rows import topk_rows
from mmxai.kernels.unembed_topk._job import Job, UnembedTopk

ROWS = 64


def supports(job: Job, k: int) -> str | None:
    return None


def unembed_topk(job: Job, out: UnembedTopk, threads: int) -> None:
    for first in range(0, len(job.states), ROWS):
        rows = slice(first, first + ROWS)
        logits = job.logits(job.states[rows])
        best = topk_rows(logits, out.values.shape[1], threads=threads, backend="reference")
        out.values[rows], out.ids[rows] = best
        norm = logits.double().logsumexp(1, keepdim=True)
        logs = logits - norm
        out.logsumexp[rows] = norm[:, 0]
        out.entropy[rows] = -_expected(logs, logs)
        targets, floors = job.targets[rows], job.wanted(rows)[1]
        wanted = logits.gather(1, targets.clamp(min=0)).masked_fill(targets < 0, torch.nan)
        larger = (logits[:, None] > floors[:, :, None]).sum(2) - (wanted > floors).long()
        out.target_logits[rows] = wanted
        out.target_ranks[rows] = larger.masked_fill(wanted.isnan(), -1)
        if out.kl is not None:
            finals = job.logits(job.finals(rows)).log_softmax(1, torch.float64)
            out.kl[rows] = _expected(finals, finals - logs)


def _expected(logs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The mean of `x` under probabilities exp(logs); what has none counts for nothing."""
    chances = logs.exp()
    return (chances * x.masked_fill(chances == 0, 0)).sum(1)
