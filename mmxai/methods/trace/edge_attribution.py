"""Edge attribution with integrated gradients: which component speaks to which, of a few backward passes.

A residual stream is a sum of what components wrote, so component u reaches the input of component v by an
edge of its own. Putting u's output of the other run in on that edge alone moves the metric, to first order,
by (u' - u) . d metric / d input of v (edge attribution patching: Syed et al. 2023, arXiv:2310.10348). The
gradient is averaged along the straight line between the two runs' embeddings, for at either end it may be
near zero where the metric is not (EAP-IG: Hanna et al. 2024, arXiv:2403.17806). `check` patches the best
edges exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.capture.hooks import Request, run_hooked
from mmxai.errors import ArgumentError
from mmxai.methods.trace.pairs import checked_pair
from mmxai.methods.trace.stream import Branch, Stream
from mmxai.models.metrics import Metric
from mmxai.models.model import Run
from mmxai.results import Result, axes, lines_of, number, plain

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.models import Model
    from mmxai.models.inputs import Inputs


@dataclass(repr=False)
class Edges(Result):
    """scores float32 `[samples, writers, readers]`: estimated change of the metric when the edge carries the
    other run's state; NaN where the writer comes after the reader. exact: (writer, reader) -> float32
    `[samples]`, of `check`. base, other: float32 `[samples]`, the metric of the patched run and of the other.
    steps: of the integral.
    """

    writers: list[str]
    readers: list[str]
    scores: np.ndarray
    base: np.ndarray
    other: np.ndarray
    steps: int
    exact: dict[tuple[str, str], np.ndarray]

    def to_pandas(self) -> pandas.DataFrame:
        """A row an edge, the largest mean score first, up or down."""
        import pandas

        rows = [
            {
                "writer": u,
                "reader": v,
                "score": float(self.scores[:, i, j].mean()),
                "exact": float(self.exact[u, v].mean()) if (u, v) in self.exact else np.nan,
            }
            for i, u in enumerate(self.writers)
            for j, v in enumerate(self.readers)
            if not np.isnan(self.scores[0, i, j])
        ]
        return pandas.DataFrame(rows).sort_values("score", key=np.abs, ascending=False, ignore_index=True)

    def top(self, n: int = 10) -> pandas.DataFrame:
        return self.to_pandas().head(n)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Writers x readers."""
        ax = axes(ax)
        table = self.scores.mean(0)
        bound = float(np.nanmax(np.abs(table))) or 1.0
        drawn = ax.imshow(table, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
        ax.set_yticks(range(len(self.writers)), self.writers)
        ax.set_xticks(range(len(self.readers)), self.readers, rotation=90)
        ax.set(xlabel="read by", ylabel="written by")
        ax.figure.colorbar(drawn, ax=ax)
        return ax

    def to_json(self) -> dict[str, Any]:
        exact = [{"writer": u, "reader": v, "effect": plain(e)} for (u, v), e in self.exact.items()]
        return {**super().to_json(), "exact": exact}

    def summary(self) -> str:
        table = [
            [f"{r.writer} -> {r.reader}", number(r.score), number(r.exact)]
            for r in self.top().itertuples(index=False)
        ]
        head = (
            f"{np.isfinite(self.scores[0]).sum():,} edges, gradients of {self.steps} steps: metric "
            f"{number(float(self.base.mean()))}, {number(float(self.other.mean()))} in the other run"
        )
        return f"{head}\n\n" + lines_of(("edge", "score", "exact"), table)


def edges(
    model: Model,
    into: Any,
    source: Any,
    metric: Metric,
    *,
    tower: str = "text",
    steps: int = 5,
    heads: bool = True,
    check: int = 0,
) -> Edges:
    """Score every edge between components of a tower's blocks.

    into, source: as `model.prepare` takes them, alike row by row; the run of `into` is patched with states of
    `source`. Writers: the embeddings, each head (`3.head.5`; with heads=False each attention), each MLP.
    Readers: each attention, each MLP, and the output through the final norm. steps: points of the integral,
    from 1 (plain edge attribution). check: patch that many of the best edges exactly, a forward each.

    ModelError where a tower's blocks do not read one stream through a norm each. Memory: what writers put out
    and what readers' gradients are, twice the stream a component, beside a backward pass.
    """
    if steps < 1 or check < 0:
        raise ArgumentError(f"edges: got steps={steps}, check={check}, expected 1 or more and 0 or more")
    into, source = checked_pair(model, into, source)
    stream = Stream(model, tower, heads=heads)
    wrote, other, start = _written(model, stream, source, metric)
    own, base, end = _written(model, stream, into, metric)
    change = {name: wrote[name] - own[name] for name in own}
    grads = [torch.zeros_like(start)] * len(stream.readers)
    for step in range(1, steps + 1):
        # Midpoints of the way from the patched run's embeddings to the other's.
        at = end + (start - end) * ((step - 0.5) / steps if steps > 1 else 0.0)
        grads = [
            g + new / steps for g, new in zip(grads, _gradients(model, stream, into, metric, at), strict=True)
        ]
    scores = np.full((len(base), len(stream.writers), len(stream.readers)), np.nan, dtype=np.float32)
    for i, writer in enumerate(stream.writers):
        for j, reader in enumerate(stream.readers):
            if writer.before(reader):
                scores[:, i, j] = (change[writer.name] * grads[j]).flatten(1).sum(1).cpu().numpy()
    names = [w.name for w in stream.writers], [r.name for r in stream.readers]
    result = Edges(*names, scores, base.numpy(), other.numpy(), steps, {})
    readers = {r.name: r for r in stream.readers}
    for row in result.top(check).itertuples(index=False) if check else ():
        value = _patched(model, into, metric, readers[row.reader], change[row.writer])
        result.exact[row.writer, row.reader] = (value - base).numpy()
    return result


def _written(
    model: Model, stream: Stream, inputs: Inputs, metric: Metric
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """What each writer put out, float32 `[B, T, D]`; the metric; the stream before the first block."""
    needs = list(getattr(metric, "needs", ()))
    run = model.run(inputs, capture=[*stream.sites, *needs])
    written = stream.split(run.acts)
    return written, metric(run, inputs).detach().float().cpu(), written[stream.writers[0].name]


def _gradients(
    model: Model, stream: Stream, inputs: Inputs, metric: Metric, start: torch.Tensor
) -> list[torch.Tensor]:
    """Gradients at what each reader reads, float32 `[B, T, D]`, of a run whose first block is given
    `start`."""
    first = Request(stream.start, model.point_of(stream.start), edits=[lambda _: start], grad=True)
    # A copy, so that the gradient is of the branch alone and not of what the stream carries past it.
    branches = [Request(r.name, r.point, edits=[torch.clone], grad=True) for r in stream.readers]
    run = _run(model, inputs, metric, [first, *branches], grad=True)
    with torch.enable_grad():
        value = metric(run, inputs)
    inner = [b.value for b in branches if b.value is not None]
    grads = torch.autograd.grad(value.sum(), inner, allow_unused=True)
    if all(g is None for g in grads):
        raise ArgumentError("edges: the metric does not depend on this tower through autograd")
    return [torch.zeros_like(x) if g is None else g.float() for x, g in zip(inner, grads, strict=True)]


def _patched(
    model: Model, inputs: Inputs, metric: Metric, reader: Branch, change: torch.Tensor
) -> torch.Tensor:
    """The metric float32 `[samples]` with `change` added to what one reader reads."""
    request = Request(reader.name, reader.point, edits=[lambda x: x + change.to(x.dtype)])
    run = _run(model, inputs, metric, [request], grad=False)
    return metric(run, inputs).detach().float().cpu()


def _run(model: Model, inputs: Inputs, metric: Metric, requests: Sequence[Request], grad: bool) -> Run:
    """A forward with requests at points that are no sites, and what the metric needs captured."""
    needs = model.resolve(getattr(metric, "needs", ()))
    own = [Request(site, model.point_of(site), capture=True) for site in needs]
    moved = inputs.to(model.device, model.dtype)
    with torch.set_grad_enabled(grad):
        out = run_hooked(model.module, [*requests, *own], lambda: model.forward(moved.tensors))
    return Run(out, {r.site: r.value for r in own if r.value is not None}, rows=inputs.rows)
