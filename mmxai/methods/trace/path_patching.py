"""Path patching: what a head says to other heads, or to the output, by the direct way alone.

A patched head's change reaches everything behind it. Here every other head is held at what it was in the
patched run, so that the change passes to the receivers along the stream (and, as in the source, through MLPs)
but through no third head; what the receivers' queries, keys or values become is then put into an otherwise
untouched run (Wang et al. 2022, arXiv:2211.00593, section 3.1; Goldowsky-Dill et al. 2023, arXiv:2304.05969).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace.pairs import checked_pair
from mmxai.models import edits
from mmxai.models.metrics import Metric
from mmxai.results import Result, axes, lines_of, number

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.capture.hooks import Edit
    from mmxai.models import Model
    from mmxai.models.inputs import Inputs


class Head(NamedTuple):
    block: int
    head: int


class Receiver(NamedTuple):
    """What receives: a head's query, key or value (of grouped-query attention a key's or value's own
    number)."""

    kind: Literal["q", "k", "v"]
    block: int
    head: int


@dataclass(repr=False)
class Paths(Result):
    """effects float32 `[senders, samples]`: change of the metric when a sender's path carries the other run's
    state.

    receivers: "output", or names like `q 9.6`. base, other: float32 `[samples]`, the metric of the patched
    run and of the other. mlps: "recomputed" or "held".
    """

    senders: list[Head]
    receivers: list[str]
    mlps: str
    effects: np.ndarray
    base: np.ndarray
    other: np.ndarray

    def to_pandas(self) -> pandas.DataFrame:
        """A row a sender: mean effect, and that over how far apart the two runs' metrics are."""
        import pandas

        apart = self.other - self.base
        rows = [
            {"block": s.block, "head": s.head, "effect": e.mean(), "share": e.mean() / apart.mean()}
            for s, e in zip(self.senders, self.effects, strict=True)
        ]
        return pandas.DataFrame(rows)

    def top(self, n: int = 10) -> pandas.DataFrame:
        return self.to_pandas().sort_values("effect", key=np.abs, ascending=False).head(n)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Blocks x heads."""
        ax = axes(ax)
        shape = (max(s.block for s in self.senders) + 1, max(s.head for s in self.senders) + 1)
        table = np.full(shape, np.nan)
        for sender, effect in zip(self.senders, self.effects, strict=True):
            table[sender] = effect.mean()
        bound = float(np.nanmax(np.abs(table))) or 1.0
        drawn = ax.imshow(table, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
        ax.set(xlabel="head", ylabel="block", title=f"effect by the path to {', '.join(self.receivers)}")
        ax.figure.colorbar(drawn, ax=ax)
        return ax

    def summary(self) -> str:
        table = [[f"{r.block}.{r.head}", number(r.effect), number(r.share)] for r in self.top().itertuples()]
        head = (
            f"paths of {len(self.senders)} heads to {', '.join(self.receivers)}, MLPs {self.mlps}: metric "
            f"{number(float(self.base.mean()))}, {number(float(self.other.mean()))} in the other run"
        )
        return f"{head}\n\n" + lines_of(("head", "effect", "share"), table)


def patch_paths(
    model: Model,
    into: Any,
    source: Any,
    metric: Metric,
    *,
    senders: Sequence[tuple[int, int]] | None = None,
    receivers: Sequence[tuple[Literal["q", "k", "v"], int, int]] = (),
    tower: str = "text",
    rows: torch.Tensor | None = None,
    mlps: Literal["recomputed", "held"] = "recomputed",
) -> Paths:
    """Patch the direct path from each of `senders` (block, head) to `receivers` (none: the output).

    into, source: as `model.prepare` takes them, alike row by row; the run of `into` is patched with heads'
    `z` of `source`. senders: default all heads in front of the last receiver. rows: bool `[T]` or `[B, T]`,
    where the sender is patched (default everywhere). mlps: "held" lets the change pass along the stream
    alone. Costs a forward a sender where the output receives, else two.
    """
    into, source = checked_pair(model, into, source)
    heads = _Heads(model, tower)
    goals = [heads.receiver(*r) for r in receivers]
    end = max((g.block for g in goals), default=heads.blocks)
    chosen = [heads.sender(*s) for s in senders] if senders is not None else heads.all(end)
    if late := [s for s in chosen if s.block >= end]:
        raise ArgumentError(
            f"patch_paths: got senders {late} of block {end} or later, expected heads before it"
        )
    if rows is not None:
        only: Callable[[Edit], Edit] = partial(edits.only, rows)
    else:
        only = lambda edit: edit  # noqa: E731
    kept = [heads.site(b, kind) for b in range(heads.blocks) for kind in heads.held(mlps)]
    needs = list(getattr(metric, "needs", ()))
    run = model.run(source, capture=[*kept, *needs])
    theirs, other = run.acts, metric(run, source).float().cpu()
    run = model.run(into, capture=[*kept, *needs])
    ours, base = run.acts, metric(run, into).float().cpu()
    effects = []
    for sender in chosen:
        site = heads.site(sender.block, "z")
        change: dict[str, list[Edit]] = {site: [only(heads.put("z", sender.head, theirs[site]))]}
        for block in range(sender.block, end):
            for kind in heads.held(mlps):
                if block > sender.block or kind != "z":
                    change.setdefault(heads.site(block, kind), []).append(
                        _become(ours[heads.site(block, kind)])
                    )
        value = _through(model, into, metric, heads, goals, change, needs)
        effects.append((value - base).numpy())
    names = [f"{g.kind} {g.block}.{g.head}" for g in goals] or ["output"]
    return Paths(chosen, names, mlps, np.stack(effects), base.numpy(), other.numpy())


def _through(
    model: Model,
    into: Inputs,
    metric: Metric,
    heads: _Heads,
    goals: Sequence[Receiver],
    change: dict[str, list[Edit]],
    needs: Sequence[str],
) -> torch.Tensor:
    if goals:
        sites = list(dict.fromkeys(heads.site(g.block, g.kind) for g in goals))
        # Edits behind the last receiver would never run: `end` leaves them out of `change`.
        reached = model.run(into, capture=sites, edit=change, stop=True).acts
        change = {}
        for goal in goals:
            site = heads.site(goal.block, goal.kind)
            change.setdefault(site, []).append(heads.put(goal.kind, goal.head, reached[site]))
    run = model.run(into, capture=needs, edit=change)
    return metric(run, into).float().cpu()


class _Heads:
    """Heads of a tower by block and number. Raises ArgumentError, saying what there is."""

    def __init__(self, model: Model, tower: str):
        if tower not in model.towers:
            raise ArgumentError(f"got tower {tower!r}, expected one of {', '.join(model.towers)}")
        self.tower, self.dims = tower, model.towers[tower].dims
        self.blocks = self.dims.blocks

    def site(self, block: int, kind: str) -> str:
        return f"{self.tower}.{block}.{kind}"

    def held(self, mlps: str) -> tuple[str, ...]:
        return ("z", "mlp_out") if mlps == "held" else ("z",)

    def all(self, end: int) -> list[Head]:
        return [Head(b, h) for b in range(end) for h in range(self.dims.heads)]

    def sender(self, block: int, head: int) -> Head:
        self._check(block, head, self.dims.heads, "heads")
        return Head(block, head)

    def receiver(self, kind: Literal["q", "k", "v"], block: int, head: int) -> Receiver:
        if kind not in ("q", "k", "v"):
            raise ArgumentError(f"receivers: got kind {kind!r}, expected q, k or v")
        self._check(block, head, self._number(kind), f"{kind} heads")
        return Receiver(kind, block, head)

    def put(self, kind: str, head: int, value: torch.Tensor) -> Edit:
        """Set one head's columns to those of `value` `[B, T, width]`."""
        width = value.shape[-1] // self._number(kind)
        columns = slice(head * width, (head + 1) * width)

        def edit(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[..., columns] = value[..., columns]
            return x

        return edit

    def _number(self, kind: str) -> int:
        return self.dims.kv_heads if kind in ("k", "v") else self.dims.heads

    def _check(self, block: int, head: int, number: int, what: str) -> None:
        if not (0 <= block < self.blocks and 0 <= head < number):
            raise ArgumentError(
                f"got head {head} of block {block}, expected one of {number} {what} (from 0) of "
                f"{self.blocks} blocks (from 0) of {self.tower}"
            )


def _become(value: torch.Tensor) -> Edit:
    return lambda _: value
