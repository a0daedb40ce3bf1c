"""Causal checks: what a metric loses as more and more units are ablated, beside random sets of equal size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.neurons.latents import Latents
from mmxai.models import edits
from mmxai.models.inputs import Inputs
from mmxai.models.metrics import Metric, prepared
from mmxai.results import Result, axes, lines_of, number

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.models import Model

How = Literal["zero", "mean", "resample", "scale"]


@dataclass(repr=False)
class Ablation(Result):
    """`counts` units of an order ablated at once; each metric's mean over its items (`[counts]`), beside
    `control` `[sets, counts]`: as many units drawn at random. how: what became of them.
    """

    site: str
    how: str
    order: list[int]
    counts: list[int]
    items: dict[str, int]
    chosen: dict[str, np.ndarray]
    control: dict[str, np.ndarray]

    def drop(self, metric: str) -> np.ndarray:
        """How much of a metric the chosen units took beyond what as many random ones took on average."""
        return self.control[metric].mean(0) - self.chosen[metric]

    def _random(self, metric: str, at: int) -> float:
        return float(self.control[metric][:, at].mean())

    def to_pandas(self) -> pandas.DataFrame:
        """A row a metric and number ablated."""
        import pandas

        rows = [
            {
                "metric": name, "units": n, "chosen": float(values[i]),
                "random": float(self.control[name][:, i].mean()),
                "random low": float(self.control[name][:, i].min()),
                "random high": float(self.control[name][:, i].max()),
            }
            for name, values in self.chosen.items() for i, n in enumerate(self.counts)
        ]  # fmt: skip
        return pandas.DataFrame(rows)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Each metric against the number ablated, random sets as a band."""
        ax = axes(ax)
        for name, values in self.chosen.items():
            (line,) = ax.plot(self.counts, values, label=name)
            low, high = self.control[name].min(0), self.control[name].max(0)
            ax.fill_between(self.counts, low, high, alpha=0.2, color=line.get_color())
        ax.set(xlabel=f"units of {self.site} ablated", ylabel="metric")
        ax.legend()
        return ax

    def summary(self) -> str:
        table = [
            [
                str(n),
                *(f"{number(float(v[i]))} ({number(self._random(k, i))})" for k, v in self.chosen.items()),
            ]
            for i, n in enumerate(self.counts)
        ]
        sets = len(next(iter(self.control.values())))
        head = f"{self.site}, units {self.how}; in brackets the mean of {sets} random sets of as many units"
        return f"{head}\n\n" + lines_of(("units", *self.chosen), table)


def ablate(
    model: Model,
    site: str | Latents,
    order: Sequence[int],
    batches: Callable[[], Iterable[Any]],
    metrics: Mapping[str, Metric],
    *,
    how: How = "zero",
    counts: Sequence[int] = (0, 1, 2, 4, 8, 16, 32),
    means: torch.Tensor | None = None,
    source: torch.Tensor | None = None,
    by: float = 0.0,
    heads: int = 0,
    among: Sequence[int] | None = None,
    sets: int = 5,
    seed: int = 0,
) -> Ablation:
    """Ablate the first n units of `order`, for every n of `counts`, at every row of the site.

    site: or `Latents` of one: what the chosen latents write is taken away or changed, at the rows that the
    dictionary encodes, and what it does not tell of a row stays; means and source are of its codes. how:
    "zero"; "mean" (needs means, float `[width]`, over data); "resample" (needs source, float `[N, width]`,
    rows of other samples); "scale" (times `by`). heads: units are heads, that many side by side in a row.
    batches: called anew for every run, gives what `model.prepare` takes. Control: `sets` random orders of
    `among` (default: all units that are not among the ablated). Each n costs 1 + sets runs over the batches.
    """
    latents = None if isinstance(site, str) else site
    width = model.width_of(site) if isinstance(site, str) else len(site.directions)
    units = heads or width
    order = [int(u) for u in order]
    fits = len(set(order)) == len(order) and set(order) <= set(range(units))
    counts = sorted({int(n) for n in counts if n <= len(order)})
    if not (counts and metrics and fits) or sets < 1:
        raise ArgumentError(
            f"ablate: got {len(order)} units, counts={counts}, sets={sets}, {len(metrics)} metrics; expected "
            f"different units from 0 to {units - 1}, counts up to how many they are, at least one set and "
            "one metric"
        )
    if latents is not None and heads:
        raise ArgumentError(f"ablate: got heads={heads} of latents, expected none")
    edit = _edit(how, width, heads, means, source, by, seed, latents)
    ablated = set(order[: max(counts)])
    rest = [u for u in range(units) if u not in ablated] if among is None else [int(u) for u in among]
    if len(rest) < max(counts):
        raise ArgumentError(
            f"ablate: got {len(rest)} units to draw random sets from, expected at least {max(counts)}; "
            "ablate fewer"
        )
    clean = _measure(model, site, None, batches, metrics)
    draws = [np.random.default_rng([seed, i]).permutation(rest).tolist() for i in range(sets)]
    chosen: dict[str, list[float]] = {name: [] for name in metrics}
    control: dict[str, list[list[float]]] = {name: [[] for _ in draws] for name in metrics}
    for n in counts:
        found = _measure(model, site, edit(order[:n]), batches, metrics) if n else clean
        for name in metrics:
            chosen[name].append(found[name][0])
        for i, draw in enumerate(draws):
            found = _measure(model, site, edit(draw[:n]), batches, metrics) if n else clean
            for name in metrics:
                control[name][i].append(found[name][0])
    said = {"zero": "set to 0", "mean": "set to their means", "resample": "set to those of other rows"}
    return Ablation(
        site if isinstance(site, str) else site.name, said.get(how, f"times {by:g}"), order, counts,
        {name: clean[name][1] for name in metrics},
        {name: np.array(v) for name, v in chosen.items()}, {name: np.array(v) for name, v in control.items()},
    )  # fmt: skip


def _edit(
    how: How,
    width: int,
    heads: int,
    means: torch.Tensor | None,
    source: torch.Tensor | None,
    by: float,
    seed: int,
    latents: Latents | None,
) -> Callable[[Sequence[int]], edits.Edit]:
    if how not in ("zero", "mean", "resample", "scale"):
        raise ArgumentError(f"ablate: got how={how!r}, expected zero, mean, resample or scale")
    if (how == "mean" and means is None) or (how == "resample" and source is None):
        raise ArgumentError(
            f"ablate: got how={how!r} without its values, expected means= or source= beside it"
        )

    def made(units: Sequence[int]) -> edits.Edit:
        columns = edits.head_columns(units, heads, width) if heads else list(units)
        # Of latents the chosen codes alone are edited, side by side.
        at = columns if latents is None else list(range(len(columns)))
        if how == "zero":
            edit = edits.zero(at)
        elif how == "scale":
            edit = edits.scale(at, by)
        elif how == "mean" and means is not None:
            edit = edits.mean(at, means.float()[columns])
        else:
            edit = edits.resample(at, source.float()[:, columns], seed)  # type: ignore[union-attr]
        return edit if latents is None else latents.edit(columns, edit)

    return made


def _measure(
    model: Model,
    site: str | Latents,
    edit: edits.Edit | None,
    batches: Callable[[], Iterable[Any]],
    metrics: Mapping[str, Metric],
) -> dict[str, tuple[float, int]]:
    """Each metric's mean, and over how many items."""
    needs = sorted({s for metric in metrics.values() for s in getattr(metric, "needs", ())})
    found: dict[str, list[torch.Tensor]] = {name: [] for name in metrics}
    seen = 0
    for inputs in prepared(model, batches()):
        seen += inputs.batch_size
        once = {} if edit is None else _at(model, site, edit, inputs)
        run = model.run(inputs, capture=needs, edit=once)
        for name, metric in metrics.items():
            found[name].append(metric(run, inputs).detach().double().cpu())
    if not seen:
        raise ArgumentError("ablate: got no batches, expected at least one")
    every = {name: torch.cat(values) for name, values in found.items()}
    return {name: (float(v.mean()), len(v)) for name, v in every.items()}


def _at(model: Model, site: str | Latents, edit: edits.Edit, inputs: Inputs) -> dict[str, edits.Edit]:
    """`edit` at a site's every row, or at those that a dictionary encodes."""
    if isinstance(site, str):
        return {site: edit}
    return {site.site: edits.only(site.encoded(inputs.rows[model.space_of(site.site)]), edit)}
