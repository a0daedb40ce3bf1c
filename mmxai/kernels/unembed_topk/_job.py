"""What `unembed_topk` is given, checked, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class UnembedTopk:
    """What the lens says of N rows, in float32; the log-probability of a logit is it less `logsumexp`."""

    values: torch.Tensor
    """`[N, k]`: the largest logits, largest first; a NaN is larger than anything."""
    ids: torch.Tensor
    """int32 `[N, k]`: whose they are; of equal ones the lower id comes first."""
    logsumexp: torch.Tensor
    """`[N]`"""
    entropy: torch.Tensor
    """`[N]`, nats."""
    target_logits: torch.Tensor
    """`[N, T]`; NaN where the target is -1."""
    target_ranks: torch.Tensor
    """int64 `[N, T]`: how many logits are larger, 0 for the largest; -1 where the target's is NaN."""
    kl: torch.Tensor | None
    """`[N]`: KL(final || lens) in nats; None without something to compare with."""


@dataclass(frozen=True)
class Job:
    states: torch.Tensor
    """`[N, D]`, float32, bfloat16 or float16, as `weight` `[V, D]`."""
    weight: torch.Tensor
    bias: torch.Tensor | None
    """float32 `[V]`."""
    scale: float
    softcap: float | None
    targets: torch.Tensor
    """int64 `[N, T]`."""
    reference: torch.Tensor | None
    """int64 `[N]`: rows of `final`, or, where that is None, of `states`."""
    final: torch.Tensor | None

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """float32 `[n, V]` of rows `x` `[n, D]`: softcap tanh((scale x . weight + bias) / softcap)."""
        logits = x.float() @ self.weight.float().T
        logits = logits if self.scale == 1 else logits * self.scale
        logits = logits if self.bias is None else logits + self.bias
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def finals(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """`[n, D]`: the states whose distributions those rows' are compared with."""
        if self.reference is None:
            raise ValueError("this job compares with nothing")
        return (self.states if self.final is None else self.final)[self.reference[rows]]

    def sizes(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """`[n, T]`: |scale| |state| |weight row of the target|."""
        lengths = torch.linalg.vector_norm(self.states[rows].float(), dim=1, keepdim=True)
        targets = self.targets[rows].clamp(min=0)
        weights = (
            torch.stack([torch.linalg.vector_norm(self.weight[t].float(), dim=1) for t in targets.T], 1)
            if targets.shape[1]
            else lengths[:, :0]
        )
        return abs(self.scale) * lengths * weights
