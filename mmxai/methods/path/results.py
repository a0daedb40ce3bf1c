"""Contributions of every term over a data set, streamed: means, spreads, and how exact the split is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.path.path import Path, Targets, Term
from mmxai.results import Result, axes, lines_of, number
from mmxai.types import Batch

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

KINDS = ("embedding", "position", "head", "mlp", "bias", "norm")
_SHOWN = 12


@dataclass(repr=False)
class Contributions(Result):
    """What each term adds to each target, over `rows` rows.

    mean, std: float64 `[terms, K]`, over rows. share: `[terms]`, the mean over rows of each term's share of
    the output's square (term . output / |output|^2); all sum to 1. error: the largest distance between a
    row's terms put together and the model's own output, over its length; None where the model's output is
    not at hand. scale_spread: of each norm the standard deviation over rows of what it divides by, over its
    mean: how much of a comparison *between* rows lies in numbers that the split holds fixed within each.
    """

    model: str
    tower: str
    rows: int
    terms: list[Term]
    targets: list[str]
    mean: np.ndarray
    std: np.ndarray
    share: np.ndarray
    error: float | None
    scale_spread: dict[str, float]

    def by_kind(self) -> dict[str, float]:
        """Shares of the output by kind of term; they sum to 1."""
        kinds = np.array([t.kind for t in self.terms])
        return {k: float(self.share[kinds == k].sum()) for k in KINDS if (kinds == k).any()}

    @property
    def norm_share(self) -> float:
        """The share of the norms' biases: what linearising the norms leaves to nobody else."""
        return self.by_kind().get("norm", 0.0)

    def top(self, number: int = _SHOWN, target: int | None = None) -> list[int]:
        """Indices of the terms with the largest |mean| for a target, or share of the output."""
        size = self.share if target is None else self.mean[:, target]
        return [int(i) for i in np.argsort(-np.abs(size), kind="stable")[:number]]

    def summary(self) -> str:
        kinds = ", ".join(f"{k} {v:.1%}" for k, v in self.by_kind().items())
        error = "not compared" if self.error is None else f"{self.error:.1e} of its length at most"
        spread = max(self.scale_spread.values(), default=0.0)
        head = (
            f"{self.model}, {self.tower}: {len(self.terms)} terms over {self.rows:,} rows\n"
            f"shares of the output: {kinds}\n"
            f"sum against the model's own output: {error}; norms divide by numbers that vary by up to "
            f"{spread:.1%} (of their mean) from row to row, and are held fixed within each"
        )
        shown = [self.targets[k] for k in range(min(4, len(self.targets)))]
        table = lines_of(
            ("largest shares", "share", *shown),
            [
                (self.terms[i].name, f"{self.share[i]:.2%}", *map(number, self.mean[i, : len(shown)]))
                for i in self.top()
            ],
        )
        return f"{head}\n\n{table}"

    def to_pandas(self) -> pandas.DataFrame:
        """A row a term."""
        import pandas

        frame = pandas.DataFrame([vars(t) for t in self.terms])
        frame["share"] = self.share
        for k, target in enumerate(self.targets):
            frame[target], frame[f"{target} std"] = self.mean[:, k], self.std[:, k]
        return frame

    def grid(self, target: int | None = None) -> tuple[np.ndarray, list[str]]:
        """Blocks x columns (heads, then the MLP), with the columns' names: shares, or means for a target."""
        size = self.share if target is None else self.mean[:, target]
        heads = max(t.head for t in self.terms if t.head is not None) + 1
        blocks = max(t.block for t in self.terms if t.block is not None) + 1
        grid = np.zeros((blocks, heads + 1))
        for value, term in zip(size, self.terms, strict=True):
            if term.block is not None and term.kind in ("head", "mlp"):
                grid[term.block, heads if term.head is None else term.head] += value
        return grid, [*(f"h{h}" for h in range(heads)), "mlp"]

    def plot(self, ax: Axes | None = None, target: int | None = None) -> Axes:
        """A heat map of blocks x (heads, MLP)."""
        ax = axes(ax)
        grid, names = self.grid(target)
        most = float(np.abs(grid).max()) or 1.0
        image = ax.imshow(grid, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        ax.set_xticks(range(len(names)), names)
        ax.set_yticks(range(len(grid)))
        ax.set(ylabel="block", title="share of the output" if target is None else self.targets[target])
        ax.figure.colorbar(image, ax=ax)
        return ax

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"by_kind": self.by_kind(), "norm_share": self.norm_share}


def contributions(
    path: Path,
    batches: Iterable[Batch],
    targets: Targets | Callable[[Batch], Targets] | None = None,
    names: Sequence[str] = (),
) -> Contributions:
    """Every term's contributions to K targets over all rows of `batches` (`path.read` or `path.batches`).

    targets: shared by all rows, or made of each batch; None: shares of the output alone. names: what the K
    targets are called. Nothing is held but one batch.
    """
    shape = (len(path.terms), len(names))
    total, square, share = np.zeros(shape), np.zeros(shape), np.zeros(len(path.terms))
    rows, worst, compared = 0, 0.0, False
    scales: dict[str, np.ndarray] = {}
    for batch in batches:
        n = len(batch[path.sites[0]])
        if not n:
            continue
        share += path.split(batch, path.itself(batch))[..., 0].double().sum(0).cpu().numpy()
        if targets is not None:
            own = targets(batch) if callable(targets) else targets
            found = path.split(batch, own).double()
            if found.shape[2] != len(names):
                raise ArgumentError(
                    f"path: got {found.shape[2]} targets and {len(names)} names, expected as many"
                )
            total += found.sum(0).cpu().numpy()
            square += found.square().sum(0).cpu().numpy()
        for name, s in path.scales(batch).items():
            moments = torch.stack([s.double().sum(), s.double().square().sum()]).cpu().numpy()
            scales[name] = scales.get(name, 0) + moments
        if "output" in batch:
            compared, own_output = True, batch["output"].float().cpu()
            apart = (path.shown(path.output(batch)).cpu() - own_output).norm(dim=1)
            worst = max(worst, float((apart / own_output.norm(dim=1)).max()))
        rows += n
    if not rows:
        raise ArgumentError("path: got no rows, expected one at least")
    mean = total / rows
    return Contributions(
        path.model.name, path.tower, rows, path.terms, list(names), mean,
        np.sqrt(np.maximum(square / rows - mean**2, 0)), share / rows, worst if compared else None,
        {name: _spread(m, rows) for name, m in scales.items()},
    )  # fmt: skip


def _spread(moments: np.ndarray, rows: int) -> float:
    mean, square = moments / rows
    return float(np.sqrt(max(square - mean**2, 0.0)) / mean)
