"""What `unembed_topk` is given, checked, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch

TIE = 2.0**-23
"""Times |state| |weight row| (and |bias|, and 4 softcap): what float32 loses of a logit. Logits so near to
each other are equal."""


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
        """float32 `[n, V]` of rows `x` `[n, D]`."""
        return self.settled(x.float() @ self.weight.float().T, self.bias)

    def settled(self, products: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Logits of products: softcap tanh((scale product + bias) / softcap)."""
        logits = products if self.scale == 1 else products * self.scale
        logits = logits if bias is None else logits + bias
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def finals(self, rows: slice) -> torch.Tensor:
        """`[n, D]`: the states whose distributions those rows' are compared with."""
        if self.reference is None:
            raise ValueError("this job compares with nothing")
        return (self.states if self.final is None else self.final)[self.reference[rows]]

    def wanted(self, rows: slice | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The targets' logits, and what another must pass to be larger, both float32 `[n, T]`."""
        states, targets = self.states[rows].float(), self.targets[rows]
        logits, floors = torch.empty((2, *targets.shape), device=states.device)
        sizes = torch.linalg.vector_norm(states, dim=1) * (TIE * abs(self.scale))
        for t, ids in enumerate(targets.clamp(min=0).T):  # one by one: [n, T, D] may be much
            weight = self.weight[ids].float()
            lost = sizes * torch.linalg.vector_norm(weight, dim=1) + TIE * 4 * (self.softcap or 0)
            bias = None if self.bias is None else self.bias[ids]
            if bias is not None:
                lost += TIE * bias.abs().nan_to_num(posinf=0)
            logits[:, t] = self.settled((states * weight).sum(1), bias)
            floors[:, t] = logits[:, t] + lost
        missing = targets < 0
        return logits.masked_fill(missing, torch.nan), floors.masked_fill(missing, torch.nan)
