"""`Path`: the output of a model at one token, exactly, as a sum over what wrote to the residual stream.

    output = W (gamma * c(x) / s(x) + beta) + b,      x = embedding + sum of heads + sum of MLPs + biases

With the norm's scale s held at what it is for the row at hand, the output is linear in x, so that each term
of x has its own share of it (direct logit attribution, Elhage et al. 2021; of CLIP's image embedding:
Gandelsman et al. 2024, arXiv:2310.05916). A head's term is its mixed values times its part of the output
matrix, a neuron's its activation times its column. Norms in between (post-norm blocks, Gemma's norms behind
attention and MLP) are linearised the same way; their biases, and the output's, are terms of their own.
Nothing is left over, and nothing is expanded: rows of `z`, `mlp_post` and the embedding at the read-out token
say it all, so an ordinary store of these sites is the factored form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.path.network import Add, network_of
from mmxai.methods.path.readout import own_output, read_positions
from mmxai.models.inputs import Inputs
from mmxai.types import Batch, Rows

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.store import Store


@dataclass(frozen=True)
class Term:
    """kind: embedding, position, head, mlp, bias (of a matrix) or norm (a norm's bias)."""

    name: str
    kind: str
    block: int | None = None
    head: int | None = None


@dataclass(frozen=True)
class Targets:
    """What is read of an output. read float32 `[K, D]`, or `[N, K, D]` for each row its own: covectors of the
    stream behind the last norm; offset `[K]` or `[N, K]`: the part of the output's own bias."""

    read: torch.Tensor
    offset: torch.Tensor


class Path:
    """The split of what `tower` of a model puts out. Immutable; weights are taken once, in float32.

    sites: whose rows at the read-out token are needed. tokens: the same as `tokens=` of a harvest. out: the
    output's width. logits: whether it is logits, which a softmax reads up to a constant.
    """

    def __init__(self, model: Model, tower: str | None = None):
        if not model.towers:
            raise ArgumentError(f"path: {model.name} has no adapter, expected a model of a known family")
        if tower is None and len(model.towers) != 1:
            raise ArgumentError(f"path: {model.name} has towers {list(model.towers)}, expected tower=")
        self.model, self.tower = model, tower or next(iter(model.towers))
        self.network = network_of(model, self.tower)
        spec = model.towers[self.tower].spec
        self.sites = self.network.sites
        vision = spec.input == "pixel_values"
        first = spec.readout is not None and spec.readout.token == "first"
        self.tokens = "cls" if vision else "special" if first else "last"
        self.width = model.towers[self.tower].dims.model
        matrix = self.network.matrix
        self.logits = matrix is not None and spec.readout is not None and spec.readout.logits
        self.out = self.width if matrix is None else matrix.shape[0]
        self.terms = self._terms()

    def read(self, inputs: Any) -> Batch:
        """Rows at the read-out token `[B, D]` of a batch that `model.prepare` takes, by one run of the model;
        with `"output"` `[B, out]`, what the model itself put out."""
        given = self.model.prepare(inputs)
        at = read_positions(self.model, self.tower, given)
        vision = self.model.modality(self.tower) == "image"  # the other tower need not run
        if vision or not self.model.pictures_in_text:
            theirs = {k: v for k, v in given.tensors.items() if (k == "pixel_values") == vision}
            given = Inputs(theirs, {s: r for s, r in given.rows.items() if s.partition(".")[0] == self.tower})
        own = own_output(self.model, self.tower, self.network)
        run = self.model.run(given, capture=[*self.sites, *own.sites])
        every = torch.arange(len(at))
        acts = {site: run.acts[site][every, at].float() for site in self.sites}
        acts["output"] = own(run, at).float()
        return Batch(acts, Rows(run.rows[self.tower][every, at]), space=self.tower)

    def batches(self, store: Store, rows: int = 512, **options: Any) -> Iterator[Batch]:
        """The same rows from a store of `sites`, harvested with `tokens`; options as in `store.batches`."""
        if missing := [site for site in self.sites if site not in store.sites]:
            raise ArgumentError(
                f"path: {store.path} lacks {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}, "
                f"expected a harvest of path.sites with tokens={self.tokens!r}"
            )
        options = {"tokens": self.tokens, "dtype": torch.float32, **options}
        with store.batches(rows, sites=self.sites, **options) as loader:
            for batch in loader:
                if self.tokens == "special":  # all special tokens, of which the first is read
                    keep = batch.rows.position == 0
                    yield Batch({s: x[keep] for s, x in batch.items()}, batch.rows[keep], space=batch.space)
                else:
                    yield batch

    # Targets

    def towards(self, directions: torch.Tensor) -> Targets:
        """Products of the output with `directions` `[K, out]` or `[N, K, out]`, for instance of CLIP with the
        embedded texts."""
        directions = directions.to(self._device).float()
        if directions.ndim not in (2, 3) or directions.shape[-1] != self.out:
            raise ArgumentError(
                f"path: got directions {tuple(directions.shape)}, expected "
                f"(K, {self.out}) or (N, K, {self.out})"
            )
        matrix, bias = self.network.matrix, self.network.bias
        offset = directions.new_zeros(directions.shape[:-1]) if bias is None else directions @ bias
        return Targets(directions if matrix is None else directions @ matrix, offset)

    def outputs(self, which: torch.Tensor, *, centred: bool = False) -> Targets:
        """Some of the output's numbers, int64 `[K]` or `[N, K]`: a language model's logits of these tokens.

        centred: less the mean over all (of logits, what no softmax can see).
        """
        matrix, bias = self.network.matrix, self.network.bias
        if matrix is None:
            directions = torch.eye(self.out, device=self._device)[which.to(self._device)]
            return self.towards(directions - 1 / self.out if centred else directions)
        which = which.to(self._device)
        read, offset = matrix[which], matrix.new_zeros(which.shape) if bias is None else bias[which]
        if centred:
            read, offset = read - matrix.mean(0), offset - (0 if bias is None else bias.mean())
        return Targets(read, offset)

    def everything(self) -> Targets:
        """Every number of the output: K = out."""
        return self.outputs(torch.arange(self.out))

    def itself(self, batch: Mapping[str, torch.Tensor]) -> Targets:
        """The output (logits: less their mean) in the direction of itself: contributions are shares of its
        square, and sum to 1."""
        output = self.output(batch)
        if self.logits:
            output = output - output.mean(1, keepdim=True)
        return self.towards((output / output.square().sum(1, keepdim=True))[:, None])

    def foremost(self, batch: Mapping[str, torch.Tensor]) -> Targets:
        """Each row's own largest number of the output, less the mean over all: of a language model the logit
        of the token that it would say next, of a classifier that of its class."""
        return self.outputs(self.output(batch).argmax(1, keepdim=True), centred=True)

    # The split

    def output(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The output `[N, out]` (before a cap on logits) put together again from a batch's rows."""
        x, _ = self._forward(batch)
        matrix, bias = self.network.matrix, self.network.bias
        y = x if matrix is None else x @ matrix.T
        return y if bias is None else y + bias

    def shown(self, output: torch.Tensor) -> torch.Tensor:
        """What the model makes of it: the same but for a cap on logits."""
        cap = self.network.cap
        return output if cap is None else torch.tanh(output / cap) * cap

    def scales(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What each norm divides by, float32 `[N]`: the numbers that the split holds fixed."""
        _, scales = self._forward(batch)
        named = zip(self.network.steps, scales, strict=True)
        return {step.site if isinstance(step, Add) else step.name: s for step, s in named if s is not None}

    def split(self, batch: Mapping[str, torch.Tensor], targets: Targets) -> torch.Tensor:
        """Contributions float32 `[N, terms, K]`, in the order of `terms`; they sum to the targets' value."""
        found: dict[str, torch.Tensor] = {}
        for step, fixed, read, factor in self._pulled(batch, targets):
            found |= {name: factor * _times(read, b) for name, b in fixed.items()}
            if isinstance(step, Add):
                rows = self._rows(batch, step.site)
                pulled = read @ step.matrix
                if not step.heads:
                    found[step.site] = factor * _times(pulled, rows)
                    continue
                each = _times(
                    pulled.unflatten(-1, (step.heads, -1)).transpose(-2, -3),
                    rows.unflatten(-1, (step.heads, -1)),
                )
                found |= {f"{step.site}.{h}": factor * each[:, h] for h in range(step.heads)}
        if self.network.bias is not None:
            found["output.bias"] = targets.offset.expand(len(batch[self.sites[0]]), -1)
        return torch.stack([found[term.name] for term in self.terms], 1)

    def neurons(self, batch: Mapping[str, torch.Tensor], block: int, targets: Targets) -> torch.Tensor:
        """Contributions float32 `[N, K, neurons]` of every neuron of a block; they sum to the MLP's."""
        return self.columns(batch, f"{self.tower}.{block}.mlp_post", targets)

    def columns(self, batch: Mapping[str, torch.Tensor], site: str, targets: Targets) -> torch.Tensor:
        """As `neurons`, of any site that writes to the stream (`z`: a column a dimension of a head)."""
        for step, pulled, rows in self._weighed(batch, targets):
            if step.site == site:
                return pulled * rows[:, None]
        raise ArgumentError(f"path: got site {site!r}, expected one of {', '.join(self.sites)}")

    def neuron_sums(self, batch: Mapping[str, torch.Tensor], targets: Targets) -> dict[str, torch.Tensor]:
        """Contributions of every neuron, summed over a batch: site -> float64 `[neurons, K]`.

        Never `[N, K, neurons]` where the targets are shared by all rows.
        """
        found = {}
        for step, pulled, rows in self._weighed(batch, targets):
            if not step.heads:
                shared = pulled.ndim == 2
                each = pulled * rows.sum(0) if shared else torch.einsum("nkw,nw->kw", pulled, rows)
                found[step.site] = each.T.double()
        return dict(reversed(found.items()))

    def _weighed(
        self, batch: Mapping[str, torch.Tensor], targets: Targets
    ) -> Iterator[tuple[Add, torch.Tensor, torch.Tensor]]:
        """(step, what the targets read of its site `[K, W]` or `[N, K, W]`, its rows times the scales)."""
        for step, _, read, factor in self._pulled(batch, targets):
            if isinstance(step, Add):
                yield step, read @ step.matrix, factor * self._rows(batch, step.site)

    @property
    def _device(self) -> torch.device:
        return next(s.matrix.device for s in self.network.steps if isinstance(s, Add))

    def _rows(self, batch: Mapping[str, torch.Tensor], site: str) -> torch.Tensor:
        return batch[site].to(self._device).float()

    def _starts(self, batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        first, *more = (self._rows(batch, site) for site in self.network.starts)
        return [first, *(x - first for x in more)]

    def _forward(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """The stream behind the last step `[N, D]`, and the scale of each step's norm."""
        x, scales = torch.stack(self._starts(batch)).sum(0), list[torch.Tensor | None]()
        for step in self.network.steps:
            y = x
            if isinstance(step, Add):
                y = self._rows(batch, step.site) @ step.matrix.T
                y = y if step.bias is None else y + step.bias
            scale = None if step.norm is None else step.norm.scale(y)
            if step.norm is not None and scale is not None:
                y = step.norm.forward(y, scale)
            scales.append(scale)
            x = x + y if isinstance(step, Add) else y
        return x, scales

    def _pulled(self, batch: Mapping[str, torch.Tensor], targets: Targets) -> Iterator[tuple]:
        """Backwards: (step, its biases by name, covectors of what it adds or of the start, factor `[N, 1]`).

        Last of all (None, the embedding's terms as biases, ...). Scales stay out of the covectors, so that
        targets that all rows share are pulled back once and not once a row.
        """
        _, scales = self._forward(batch)
        read, factor = targets.read, torch.ones(batch[self.sites[0]].shape[0], 1, device=self._device)
        for step, scale in zip(reversed(self.network.steps), reversed(scales), strict=True):
            fixed: dict[str, torch.Tensor] = {}
            theirs, times = read, factor
            name = step.site if isinstance(step, Add) else step.name
            if step.norm is not None and scale is not None:
                if step.norm.bias is not None:
                    yield None, {f"{name}.norm": step.norm.bias}, read, factor
                theirs, times = step.norm.pull(read), factor / scale[:, None]
            if isinstance(step, Add):
                if step.bias is not None:
                    fixed = {f"{name}.bias": step.bias}
                yield step, fixed, theirs, times
            else:
                read, factor = theirs, times
        names = ("embedding", "position")
        yield None, dict(zip(names, self._starts(batch), strict=False)), read, factor

    def _terms(self) -> list[Term]:
        terms = [Term("embedding", "embedding")]
        terms += [Term("position", "position")] if len(self.network.starts) == 2 else []
        for step in self.network.steps:
            block = step.block if isinstance(step, Add) else None
            name = step.site if isinstance(step, Add) else step.name
            if isinstance(step, Add):
                terms += [Term(f"{name}.{h}", "head", block, h) for h in range(step.heads)]
                terms += [] if step.heads else [Term(name, "mlp", block)]
                terms += [] if step.bias is None else [Term(f"{name}.bias", "bias", block)]
            if step.norm is not None and step.norm.bias is not None:
                terms.append(Term(f"{name}.norm", "norm", block))
        return terms if self.network.bias is None else [*terms, Term("output.bias", "bias")]


def _times(read: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Products of covectors `[K, W]` or `[N, K, W]` with rows `[W]` or `[N, W]`: `[N or 1, K]`; of heads
    (`[.., H, K, W]` with `[N, H, W]`) `[N, H, K]`."""
    if rows.ndim == 3:  # heads
        return torch.einsum("hkw,nhw->nhk" if read.ndim == 3 else "nhkw,nhw->nhk", read, rows)
    if read.ndim == 3:
        return torch.einsum("nkw,w->nk" if rows.ndim == 1 else "nkw,nw->nk", read, rows)
    return rows.reshape(-1, rows.shape[-1]) @ read.T
