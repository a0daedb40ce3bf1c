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
    the output's square (term . output / |output|^2, of logits less their mean); all sum to 1. neuron_mean,
    neuron_share: the same of every neuron, site -> `[neurons, K]`, `[neurons]`; they sum to their MLP's.
    error: the largest distance between a row's terms put together and the model's own output, over its
    length, of the `compared` rows where that was at hand; None of no row. scale_spread: of each norm the
    standard deviation over rows of what it divides by, over its mean: how much of a comparison *between*
    rows lies in numbers that the split holds fixed within each.
    """

    model: str
    tower: str
    rows: int
    terms: list[Term]
    targets: list[str]
    mean: np.ndarray
    std: np.ndarray
    share: np.ndarray
    neuron_mean: dict[str, np.ndarray]
    neuron_share: dict[str, np.ndarray]
    error: float | None
    compared: int
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

    def top_neurons(self, number: int = _SHOWN, target: int | None = None) -> list[tuple[str, int, float]]:
        """(site, neuron, its |mean| for a target, or share of the output) of the largest, largest first."""
        every: list[tuple[str, int, float]] = []
        for site in self.neuron_share:
            size = self.neuron_share[site] if target is None else self.neuron_mean[site][:, target]
            first = np.argsort(-np.abs(size), kind="stable")[:number]
            every += [(site, int(i), float(size[i])) for i in first]
        return sorted(every, key=lambda found: -abs(found[2]))[:number]

    def summary(self) -> str:
        kinds = ", ".join(f"{k} {v:.1%}" for k, v in self.by_kind().items())
        error = "not compared"
        if self.error is not None:
            error = f"off by {self.error:.1e} of its length at most, in {self.compared:,} rows"
        spread = max(self.scale_spread.values(), default=0.0)
        neurons = ", ".join(f"{s}:{i} {v:.2%}" for s, i, v in self.top_neurons(5))
        head = (
            f"{self.model}, {self.tower}: {len(self.terms)} terms over {self.rows:,} rows\n"
            f"shares of the output: {kinds}\n"
            f"sum against the model's own output: {error}\n"
            f"norms, linearised: their biases are {self.norm_share:.1%} of the output; their divisor is "
            f"held fixed within a row and varies by up to {spread:.1%} (of its mean) between rows\n"
            f"neurons with the largest shares: {neurons}"
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

    def neurons(self) -> pandas.DataFrame:
        """A row a neuron."""
        import pandas

        frames = []
        for site, share in self.neuron_share.items():
            frame = pandas.DataFrame({"site": site, "neuron": np.arange(len(share)), "share": share})
            for k, target in enumerate(self.targets):
                frame[target] = self.neuron_mean[site][:, k]
            frames.append(frame)
        return pandas.concat(frames, ignore_index=True)

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
        """All but the neurons, of which the foremost stay; `neurons()` has them all."""
        found = super().to_json() | {"by_kind": self.by_kind(), "norm_share": self.norm_share}
        del found["neuron_mean"], found["neuron_share"]
        named = {"share": None} | {name: k for k, name in enumerate(self.targets)}
        return found | {"neurons": {name: self.top_neurons(100, k) for name, k in named.items()}}


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
    sums = _Sums(path, names)
    for batch in batches:
        if len(batch[path.sites[0]]):
            own = targets(batch) if callable(targets) else targets
            sums.update(batch, own)
    return sums.result()


class _Sums:
    """What is kept of the rows seen so far."""

    def __init__(self, path: Path, names: Sequence[str]):
        self.path, self.names = path, list(names)
        shape = (len(path.terms), len(names))
        self.total, self.square, self.share = np.zeros(shape), np.zeros(shape), np.zeros(len(path.terms))
        self.neurons: dict[str, torch.Tensor] = {}  # [neurons, 1 + K]: the share, then the targets
        self.scales: dict[str, np.ndarray] = {}
        self.rows = self.compared = 0
        self.worst = 0.0

    def update(self, batch: Batch, targets: Targets | None) -> None:
        path, itself = self.path, self.path.itself(batch)
        if targets is None and self.names:
            raise ArgumentError(f"path: got the names {self.names} and no targets, expected as many")
        share = path.split(batch, itself)[..., 0]
        self.share += share.double().sum(0).cpu().numpy()
        neurons = path.neuron_sums(batch, itself)
        if targets is not None:
            found = path.split(batch, targets).double()
            if found.shape[2] != len(self.names):
                raise ArgumentError(
                    f"path: got {found.shape[2]} targets and {len(self.names)} names, expected as many"
                )
            self.total += found.sum(0).cpu().numpy()
            self.square += found.square().sum(0).cpu().numpy()
            towards = path.neuron_sums(batch, targets)
            neurons = {site: torch.cat([n, towards[site]], 1) for site, n in neurons.items()}
        for site, n in neurons.items():
            self.neurons[site] = self.neurons.get(site, 0) + n.cpu()
        for name, s in path.scales(batch).items():
            moments = torch.stack([s.double().sum(), s.double().square().sum()]).cpu().numpy()
            self.scales[name] = self.scales.get(name, 0) + moments
        self.rows += len(share)
        if "output" in batch:
            own = batch["output"].float().cpu()
            apart = (path.shown(path.output(batch)).cpu() - own).norm(dim=1)
            self.worst = max(self.worst, float((apart / own.norm(dim=1)).max()))
            self.compared += len(own)

    def result(self) -> Contributions:
        if not self.rows:
            raise ArgumentError("path: got no rows, expected one at least")
        mean = self.total / self.rows
        neurons = {site: n.numpy() / self.rows for site, n in self.neurons.items()}
        return Contributions(
            model=self.path.model.name,
            tower=self.path.tower,
            rows=self.rows,
            terms=self.path.terms,
            targets=self.names,
            mean=mean,
            std=np.sqrt(np.maximum(self.square / self.rows - mean**2, 0)),
            share=self.share / self.rows,
            neuron_mean={site: n[:, 1:] for site, n in neurons.items()},
            neuron_share={site: n[:, 0] for site, n in neurons.items()},
            error=self.worst if self.compared else None,
            compared=self.compared,
            scale_spread={name: _spread(m, self.rows) for name, m in self.scales.items()},
        )


def _spread(moments: np.ndarray, rows: int) -> float:
    mean, square = moments / rows
    return float(np.sqrt(max(square - mean**2, 0.0)) / mean)
