"""How much each unit adds to an output: by its output weights, and by activation times gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn.functional import normalize

from mmxai.errors import ArgumentError
from mmxai.methods.neurons.latents import Latents
from mmxai.models.metrics import Metric, prepared
from mmxai.models.writing import (
    ReadOut,
    adds,
    check_writes,
    columns_of_heads,
    matrix_of,
    unembedding,
    writes,
)  # fmt: skip
from mmxai.results import Result, axes, lines_of, number
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.models import Model

_TYPE = ROW_COLUMNS.index("token_type")
_SHOWN = 12
_DIRECT = "direct path, the final norm's scale held fixed"


@dataclass(repr=False)
class Contribution(Result):
    """Mean over `items` of what each unit adds to `output`, in its own units: `mean` float64 `[U]`; `size`
    the mean of its magnitude; `total` the mean output. how: in words."""

    site: str
    kind: str
    output: str
    how: str
    items: int
    total: float
    mean: np.ndarray
    size: np.ndarray

    def ranking(self, by: Literal["mean", "size"] = "size") -> np.ndarray:
        """Units, the largest first."""
        return np.argsort(-getattr(self, by), kind="stable")

    def to_pandas(self) -> pandas.DataFrame:
        """A row a unit."""
        import pandas

        return pandas.DataFrame(
            {"mean": self.mean, "size": self.size}, index=pandas.RangeIndex(len(self.mean), name=self.kind)
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean contributions, sorted."""
        ax = axes(ax)
        ax.plot(np.sort(self.mean)[::-1])
        ax.set(xlabel=f"{self.kind}s of {self.site}", ylabel=f"contribution to {self.output}")
        return ax

    def summary(self) -> str:
        order = self.ranking()[:_SHOWN]
        table = [(str(u), number(self.mean[u]), number(self.size[u])) for u in order]
        return (
            f"what {self.kind}s of {self.site} add to {self.output} ({self.how}); means of {self.items:,} "
            f"items, whose mean output is {number(self.total)}\n\n"
            + lines_of((self.kind, "mean", "size"), table)
        )


class _Sums:
    def __init__(self) -> None:
        self.items, self.total, self._rows = 0, 0.0, 0
        self._mean = self._size = torch.zeros(1, dtype=torch.float64)

    def add(self, parts: Iterable[torch.Tensor], outputs: torch.Tensor) -> None:
        """Contributions `[n, U]`, block by block, to outputs `[N]`."""
        for each in parts:
            self._mean = self._mean + each.sum(0, dtype=torch.float64)
            self._size = self._size + each.abs().sum(0, dtype=torch.float64)
            self._rows += len(each)
        self.total += float(outputs.double().sum())
        self.items += len(outputs)

    def result(self, of: _Of, output: str, how: str) -> Contribution:
        if not self.items:
            raise ArgumentError("contribution: got no batches, expected at least one")
        if not self._rows:
            raise ArgumentError(
                f"{of.name}: got an output that is read at rows which the dictionary does not encode, "
                "expected one that encodes them; use activation x gradient"
            )
        n = self.items
        return Contribution(
            of.name, of.kind, output, how + of.aside, n, self.total / n,
            (self._mean / n).numpy(), (self._size / n).numpy(),
        )  # fmt: skip


class _Of:
    """Whose contributions: a site's columns, its heads, or the latents of a dictionary of it."""

    def __init__(self, site: str | Latents, heads: int):
        self.latents = None if isinstance(site, str) else site
        self.site = site if isinstance(site, str) else site.site
        self.name = site if isinstance(site, str) else site.name
        self.heads = heads
        if self.latents is not None and heads:
            raise ArgumentError(f"{self.name}: got heads={heads} of latents, expected none")
        self.kind = "latent" if self.latents is not None else "head" if heads else "unit"
        self.aside = "" if self.latents is None else ", the dictionary's error left aside"

    def encoded(self, table: torch.Tensor) -> torch.Tensor:
        """bool `[B, T]`: rows where a unit may be other than 0, padding aside."""
        if self.latents is None:
            return table[..., _TYPE] != TOKEN_CODES["pad"]
        return self.latents.encoded(table)

    def parts(self, acts: torch.Tensor, slope: torch.Tensor, kept: torch.Tensor) -> Iterator[torch.Tensor]:
        """What each unit adds, `[n, U]`, block by block: its value times the slope of the output by it.

        acts, slope: of the site, float32 `[N, D]`. kept bool `[N]`: rows that `encoded` says.
        """
        if self.latents is None:
            each = acts * slope * kept[:, None]
            yield columns_of_heads(each, self.heads) if self.heads else each
            return
        directions = self.latents.directions.float().cpu()
        acts, slope = acts[kept], slope[kept]
        for x, own in zip(self.latents.blocks(acts), self.latents.blocks(slope), strict=True):
            yield self.latents.encode(x).cpu() * (own @ directions.T)


def logit_contribution(
    model: Model, site: str | Latents, batches: Iterable[Any], *, token: int | None = None, heads: int = 0
) -> Contribution:
    """What units add to a logit by their direct path: of `token` at each text's last token, or (None) of the
    true next token at every position but the last.

    site: or `Latents` of one. batches: what `model.prepare` takes, a batch each. ArgumentError where the site
    does not write to the residual stream by one matrix.
    """
    of = _Of(site, heads)
    site, tower = of.site, of.site.partition(".")[0]
    out, matrix, found, made = ReadOut(model, tower), writes(model, site), _Sums(), adds(site)
    for given in batches:
        inputs = model.prepare(given)
        run = model.run(inputs, capture=[site, out.last, *([made] if made else [])])
        ids = inputs.tensors["input_ids"].cpu()
        real = run.rows[tower][..., _TYPE] != TOKEN_CODES["pad"]
        if token is None:
            here = real.clone()
            here[:, :-1] &= real[:, 1:]
            here[:, -1] = False
            targets = ids.roll(-1, 1)[here]
        else:
            here = torch.zeros_like(real)
            here[torch.arange(len(real)), _last(real)] = True
            targets = torch.full((len(ids),), token)
        acts = {s: x[here.to(x.device)].float().cpu() for s, x in run.acts.items()}
        if made:
            check_writes(site, acts[site], acts[made], matrix)
        rows = unembedding(model, targets)
        read = out.covectors(rows, out.scale(acts[out.last]))
        logits = run.out.logits[here.to(run.out.logits.device)].float().cpu()
        outputs = logits.gather(1, targets[:, None])[:, 0]
        out.check(acts[out.last], read, rows, outputs)
        kept = of.encoded(run.rows[tower])[here]
        found.add(of.parts(acts[site], read @ matrix.T, kept), outputs)
    what = "the next token's logit" if token is None else f"the logit of token {token}"
    return found.result(of, what, _DIRECT)


def similarity_contribution(
    model: Model,
    site: str | Latents,
    batches: Iterable[Any],
    texts: torch.Tensor,
    name: str = "the text",
    heads: int = 0,
) -> Contribution:
    """What units of a CLIP's vision tower add to its cosine with a text by their direct path, at the class
    token. texts: float `[1, J]` for all pictures, as `mmxai.models.near_texts.embed_texts` makes them.

    site: or `Latents` of one, of a dictionary that encodes class tokens: ArgumentError otherwise.
    """
    of = _Of(site, heads)
    site, tower = of.site, of.site.partition(".")[0]
    if tower != "vision" or "vision.embeds" not in model.sites():
        raise ArgumentError(
            f"{site}: got a site without a way to vision.embeds, expected one of a CLIP's vision tower"
        )
    out, matrix, found, made = ReadOut(model, tower), writes(model, site), _Sums(), adds(site)
    projection = matrix_of(model.towers[tower].sites["vision.embeds"].point.module)
    unit = normalize(texts.float().cpu(), dim=1)
    for given in batches:
        inputs = model.prepare(given)
        run = model.run(inputs, capture=[site, out.last, "vision.embeds", *([made] if made else [])])
        # The class token alone is pooled: row 0 of every picture.
        acts = {s: x[:, 0].float().cpu() for s, x in run.acts.items()}
        if made and len(acts[site]) > 1:
            check_writes(site, acts[site], acts[made], matrix)
        length = acts["vision.embeds"].norm(dim=1, keepdim=True)
        pulled = (unit @ projection.T).expand(len(length), -1) / length
        read = out.covectors(pulled, out.scale(acts[out.last]))
        cosine = (acts["vision.embeds"] / length @ unit.T)[:, 0]
        out.check(acts[out.last], read, pulled, cosine)
        kept = of.encoded(run.rows[tower])[:, 0]
        found.add(of.parts(acts[site], read @ matrix.T, kept), cosine)
    return found.result(of, f"the cosine with {name}", _DIRECT)


def activation_gradient(
    model: Model,
    site: str | Latents,
    batches: Iterable[Any],
    metric: Metric,
    *,
    name: str = "the metric",
    heads: int = 0,
) -> Contribution:
    """Activation times gradient of a metric, summed over a sample's rows: to first order what setting the
    unit to 0 takes away (Simonyan et al. 2014; attribution patching: Nanda 2023), later blocks included.

    site: or `Latents` of one, the dictionary's error held fixed (Marks et al. 2024, arXiv:2403.19647).
    metric: see `mmxai.models.metrics`; the values of a sample's items are summed, a mean over samples.
    """
    of, found = _Of(site, heads), _Sums()
    site, tower = of.site, of.site.partition(".")[0]
    needs = [s for s in getattr(metric, "needs", ()) if s != site]
    for inputs in prepared(model, batches):
        run = model.run(inputs, capture=[site, *needs], grad=True)
        total = metric(run, inputs).sum()
        (slope,) = torch.autograd.grad(total, run.acts[site], materialize_grads=True)
        acts, slope = run.acts[site].detach().float().cpu(), slope.float().cpu()
        kept = torch.ones(acts.shape[:2], dtype=torch.bool)
        if tower in run.rows and acts.shape[1] == run.rows[tower].shape[1]:
            kept = of.encoded(run.rows[tower])
        each = [
            torch.stack([part.sum(0) for part in of.parts(*sample)]).sum(0)
            for sample in zip(acts, slope, kept, strict=True)
        ]
        found.add([torch.stack(each)], total.detach().cpu().expand(len(each)) / len(each))
    return found.result(of, name, "activation x gradient")


def _last(real: torch.Tensor) -> torch.Tensor:
    """The last true place of each row of bool `[B, T]`."""
    return real.shape[1] - 1 - real.flip(1).int().argmax(1)
