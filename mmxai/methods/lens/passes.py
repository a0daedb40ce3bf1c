"""One batch through the lens: every state of every row, by one call of the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch

from mmxai.kernels.unembed_topk import unembed_topk
from mmxai.methods.lens.states import Stack

CHUNK = 1 << 25
"""Numbers of normed states that are held at once (128 MiB in float32)."""


@dataclass(frozen=True)
class Found:
    """Of S states and N rows. ids int32 and logprobs float32 `[S, N, k]`, best first; entropy float32
    `[S, N]`, nats; kl `[S, N]`, KL(final || state), nats, None without the final state; best int32 `[N]`:
    what the final state says; target_logprobs float32, target_ranks int32 `[S, N, T]` (NaN, -1 where a row
    has no such target)."""

    ids: torch.Tensor
    logprobs: torch.Tensor
    entropy: torch.Tensor
    kl: torch.Tensor | None
    best: torch.Tensor | None
    target_logprobs: torch.Tensor
    target_ranks: torch.Tensor

    def first(self, rows: int) -> Found:
        """The first rows alone, in memory of their own."""
        if rows == self.ids.shape[1]:
            return self
        cut = {name: getattr(self, name) for name in _NAMES}
        for name, x in cut.items():
            cut[name] = None if x is None else (x[:rows] if name == "best" else x[:, :rows]).clone()
        return Found(**cut)

    @classmethod
    def join(cls, found: list[Found]) -> Found:
        """Rows of batches, one after the other."""

        def joined(name: str, dim: int) -> torch.Tensor | None:
            every = [getattr(f, name) for f in found]
            return None if every[0] is None else torch.cat(every, dim)

        return cls(*(joined(name, 0 if name == "best" else 1) for name in _NAMES))  # type: ignore[arg-type]


_NAMES = [f.name for f in fields(Found)]


def look(
    stack: Stack,
    acts: Mapping[str, torch.Tensor],
    targets: torch.Tensor,
    final: tuple[torch.Tensor, str] | None,
    *,
    k: int,
    backend: str = "auto",
) -> Found:
    """The lens on sites `[N, W]`. targets: int64 `[N, T]`, -1: none. final: the last block's output `[N, D]`
    and the kind of site it is."""
    rows, count = len(targets), len(stack.states)
    width = max(stack.unembed.weight.shape[1], stack.unembed.width)
    step = max(1, CHUNK // ((count + 1) * width))
    if rows > step:
        every = []
        for start in range(0, rows, step):
            at = slice(start, start + step)
            own = {site: x[at] for site, x in acts.items()}
            last = None if final is None else (final[0][at], final[1])
            every.append(look(stack, own, targets[at], last, k=k, backend=backend))
        return Found.join(every)
    unembed = stack.unembed
    with torch.no_grad():
        normed, wanted, reference = stack(acts), targets.repeat(count, 1), None
        if final is not None:
            # The final state is looked at like any other: it is what earlier ones are held against.
            normed = torch.cat([normed, unembed.norm(*final)])
            wanted = targets.repeat(count + 1, 1)
            reference = (torch.arange(rows, device=normed.device) + count * rows).repeat(count + 1)
        out = unembed_topk(
            normed.contiguous(), unembed.weight, bias=unembed.bias, k=min(k, unembed.size),
            targets=wanted.to(normed.device), reference=reference, scale=unembed.scale,
            softcap=unembed.softcap, backend=backend,
        )  # fmt: skip
    known = wanted >= 0

    def shaped(x: torch.Tensor) -> torch.Tensor:
        return x.cpu()[: count * rows].reshape(count, rows, *x.shape[1:])

    total = out.logsumexp.float()[:, None]
    logprobs = torch.where(known.to(total.device), out.target_logits - total, torch.nan)
    # A target's logit is a product of its own, which rounding may set below itself in the table: where it is
    # among the foremost, its place there is its rank.
    among = out.ids[:, None] == wanted.to(out.ids.device)[..., None]
    ranks = torch.where(among.any(2), among.int().argmax(2), out.target_ranks)
    ranks = torch.where(known.to(total.device), ranks, -1)
    return Found(
        ids=shaped(out.ids.to(torch.int32)),
        logprobs=shaped(out.values - total),
        entropy=shaped(out.entropy),
        kl=None if out.kl is None else shaped(out.kl.clamp(min=0)),  # rounding
        best=None if final is None else out.ids.cpu()[count * rows :, 0].to(torch.int32),
        target_logprobs=shaped(logprobs),
        target_ranks=shaped(ranks.to(torch.int32)),
    )
