"""How much of what a model does survives when a reconstruction takes the place of its activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmxai.capture.select import Selection
from mmxai.errors import ArgumentError
from mmxai.models.inputs import Inputs
from mmxai.models.metrics import Metric, prepared
from mmxai.results import Result, axes, lines_of, number, plain

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.methods.sae.model import SAE
    from mmxai.models.model import Model, Run


@dataclass(repr=False)
class Recovered(Result):
    """The mean of a metric over `items`: as the model is (`clean`), with the reconstruction spliced in, and
    with the same rows replaced by their mean over the data or by zeros.

    recovered = (spliced - ablated) / (clean - ablated): 1 where nothing is lost, 0 where the rows might as
    well be the mean; NaN where ablating them changes the metric by no more than twice its standard error, for
    there is nothing to recover then. `zero_recovered` is the same against zeros, as much published work has
    it: an easier bar. stderr, mean_stderr, zero_stderr: standard errors of spliced - clean, mean_ablated -
    clean and zero_ablated - clean.
    """

    metric: str
    items: int
    clean: float
    spliced: float
    mean_ablated: float
    zero_ablated: float
    stderr: float
    mean_stderr: float
    zero_stderr: float

    @property
    def recovered(self) -> float:
        return self._share(self.mean_ablated, self.mean_stderr)

    @property
    def zero_recovered(self) -> float:
        return self._share(self.zero_ablated, self.zero_stderr)

    def _share(self, ablated: float, error: float) -> float:
        lost = self.clean - ablated
        return (self.spliced - ablated) / lost if abs(lost) > 2 * error else float("nan")

    def to_json(self) -> dict[str, Any]:
        shares = {"recovered": plain(self.recovered), "zero_recovered": plain(self.zero_recovered)}
        return super().to_json() | shares

    def summary(self) -> str:
        values = (self.clean, self.spliced, self.mean_ablated, self.zero_ablated, self.recovered)
        names = ("clean", "spliced", "mean", "zero", "recovered")
        return lines_of((self.metric, *names), [(f"{self.items:,} items", *map(number, values))])

    def line(self) -> str:
        """The four means, for a line below a table."""
        return (
            f"{self.metric} over {self.items:,} items: {number(self.clean)} as the model is, "
            f"{number(self.spliced)} spliced (difference +- {number(self.stderr)}), "
            f"{number(self.mean_ablated)} with the mean, {number(self.zero_ablated)} with zeros"
            f"{'' if self.recovered == self.recovered else ': too little is lost to say what is recovered'}"
        )

    def to_pandas(self) -> pandas.DataFrame:
        """One row."""
        import pandas

        return pandas.DataFrame([self.to_json()])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The four means as bars."""
        ax = axes(ax)
        names = ("clean", "spliced", "mean_ablated", "zero_ablated")
        ax.bar([n.replace("_", " ") for n in names], [getattr(self, n) for n in names])
        ax.set(ylabel=self.metric, title=f"{number(self.recovered)} recovered")
        return ax


def recovered(
    model: Model,
    saes: Mapping[str, SAE],
    batches: Iterable[Any],
    metrics: Mapping[str, Metric],
    mean: torch.Tensor,
    *,
    tokens: str | None = None,
) -> dict[str, dict[str, Recovered]]:
    """SAE's name -> metric's name -> `Recovered`, every SAE on the same batches and the same ablations.

    saes: all of the same sites. batches: what `model.prepare` takes, a batch each. mean: float `[E]`, the
    mean row of the sites out, in their own units. tokens: token types that are replaced, comma-separated, or
    "last" (those that the SAE was trained on); the other rows, and padding always, stay as they are.

    Reconstructions are made of the clean run's activations, in a run of its own, so that transcoders and
    crosscoders whose sites lie behind one another are served the same.
    """
    spec = next(iter(saes.values())).spec
    if any((s.spec.sites_in, s.spec.sites_out) != (spec.sites_in, spec.sites_out) for s in saes.values()):
        raise ArgumentError("recovered: got SAEs of different sites, expected the same sites for all")
    needs = sorted({site for metric in metrics.values() for site in getattr(metric, "needs", ())})
    found: dict[str, dict[str, list[torch.Tensor]]] = {}

    def note(name: str, run: Run, inputs: Inputs) -> None:
        for label, metric in metrics.items():
            value = metric(run, inputs).detach().double().cpu()
            found.setdefault(name, {}).setdefault(label, []).append(value)

    for inputs in prepared(model, batches):
        clean = model.run(inputs, capture=[*needs, *spec.sites_in])
        note("clean", clean, inputs)
        space = model.space_of(spec.sites_in[0])
        mask = _rows(clean.rows[space], tokens).to(model.device)
        x = torch.cat([clean.acts[s][mask].float() for s in spec.sites_in], 1)
        zeros = torch.zeros(len(x), spec.width_out, device=x.device)
        instead = {name: sae.decode(sae.encode(x), x) for name, sae in saes.items()}
        instead |= {"mean": zeros + mean.to(x.device, x.dtype), "zero": zeros}
        for name, rows in instead.items():
            parts = rows.split(list(spec.widths_out), 1)
            edits = {s: _splice(mask, part) for s, part in zip(spec.sites_out, parts, strict=True)}
            note(name, model.run(inputs, capture=needs, edit=edits), inputs)
    if not found:
        raise ArgumentError("recovered: got no batches, expected at least one")
    return {name: {label: _result(label, name, found) for label in metrics} for name in saes}


def _rows(table: torch.Tensor, tokens: str | None) -> torch.Tensor:
    """bool `[B, T]`: the rows to replace, of a row table `[B, T, 8]`."""
    # By the harvest's own rule, so that these are the rows that the SAE was trained on.
    return Selection.parse(tokens).keep(table)


def _splice(mask: torch.Tensor, rows: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def edit(x: torch.Tensor) -> torch.Tensor:
        out = x.clone()
        out[mask] = rows.to(x.device, x.dtype)
        return out

    return edit


def _result(label: str, name: str, found: Mapping[str, Mapping[str, list[torch.Tensor]]]) -> Recovered:
    clean, *others = (torch.cat(found[key][label]) for key in ("clean", name, "mean", "zero"))
    return Recovered(
        label, len(clean), float(clean.mean()), *(float(v.mean()) for v in others),
        *(_stderr(v - clean) for v in others),
    )  # fmt: skip


def _stderr(differences: torch.Tensor) -> float:
    """Of the mean. Item by item two runs differ far less than the items do."""
    n = len(differences)
    return float(differences.std() / n**0.5) if n > 1 else float("nan")
