"""Attribution patching: what every patch would do, estimated from two forwards and one backward.

To first order, putting a state a' of another run in the place of a moves the metric by (a' - a) . d metric /
d a (Nanda 2023, "Attribution patching"; Syed et al. 2023, arXiv:2310.10348). Queries and keys act through a
softmax, which saturates: where attention is sure of a token the gradient is near 0, though another query
would look elsewhere. For them the change of the pattern is computed as it is, and only what follows is taken
as linear (AtP*: Kramár et al. 2024, arXiv:2403.00745, section 3.1), in closed form from the pattern p and the
change d of the logits:

    a query's row   p' = p e^d / sum(p e^d)
    one key s       p'_s - p_s = r (1 - p_s),  p'_u - p_u = -r p_u,   r = p_s (e^d - 1) / (1 + p_s (e^d - 1))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace.pairs import checked_pair
from mmxai.models import attention
from mmxai.models.metrics import Metric
from mmxai.results import Result, axes, lines_of, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas
    from matplotlib.axes import Axes

    from mmxai.capture.hooks import Edit
    from mmxai.models import Model, Run
    from mmxai.models.inputs import Inputs

HEADS = ("q", "k", "v", "z")


@dataclass(repr=False)
class Attribution(Result):
    """Estimated changes of the metric: site -> float32 `[samples, rows, units]`, a unit a head of q k v z,
    else one.

    base: float32 `[samples]`, the metric of the run that is patched. other: of the run whose states are put
    in. corrected: sites of queries and keys whose patterns were computed.
    """

    base: np.ndarray
    other: np.ndarray
    effects: dict[str, np.ndarray]
    corrected: list[str]

    def over(self, rows: np.ndarray | torch.Tensor) -> dict[str, np.ndarray]:
        """Site -> float32 `[samples, units]`: rows (bool `[rows]` or `[samples, rows]`) patched together."""
        mask = np.asarray(rows, dtype=bool)
        shape = next(iter(self.effects.values())).shape[:2]
        if mask.shape not in (shape, shape[1:]):
            raise ArgumentError(f"over: got a mask {mask.shape}, expected {shape} or {shape[1:]}")
        mask = np.broadcast_to(mask, shape)
        return {site: (effect * mask[..., None]).sum(1) for site, effect in self.effects.items()}

    def to_pandas(self) -> pandas.DataFrame:
        """A row a site, row of the sequence and unit: the mean effect over samples."""
        import pandas

        return pandas.DataFrame(
            [
                {"site": site, "row": row, "unit": unit, "effect": value}
                for site, effect in self.effects.items()
                for (row, unit), value in np.ndenumerate(effect.mean(0))
            ]
        )

    def top(self, n: int = 10) -> pandas.DataFrame:
        """The n patches of the largest effect, up or down."""
        return self.to_pandas().sort_values("effect", key=np.abs, ascending=False).head(n)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Sites x rows, units summed, samples averaged."""
        ax = axes(ax)
        table = np.stack([effect.mean(0).sum(1) for effect in self.effects.values()])
        bound = float(np.abs(table).max()) or 1.0
        drawn = ax.imshow(table, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
        ax.set_yticks(range(len(self.effects)), list(self.effects))
        ax.set(xlabel="row", title="estimated effect of a patch")
        ax.figure.colorbar(drawn, ax=ax)
        return ax

    def summary(self) -> str:
        table = [
            [f"{r.site} row {r.row} unit {r.unit}", number(r.effect)]
            for r in self.top().itertuples(index=False)
        ]
        head = (
            f"attribution patching of {len(self.effects)} sites: metric {number(float(self.base.mean()))}, "
            f"{number(float(self.other.mean()))} in the run whose states are put in"
        )
        return f"{head}\n\n" + lines_of(("patch", "effect"), table)


def attribute(
    model: Model,
    into: Any,
    source: Any,
    metric: Metric,
    *,
    sites: str | Iterable[str],
    into_edit: Mapping[str, Edit | Sequence[Edit]] | None = None,
    source_edit: Mapping[str, Edit | Sequence[Edit]] | None = None,
    correct: bool = True,
) -> Attribution:
    """Estimate, for every row and unit of `sites`, what the state of `source` there does to the run of
    `into`.

    into, source: as `model.prepare` takes them, row by row alike: to restore, into is corrupted and source
    clean. into_edit, source_edit: edits of these runs (noise on
    embeddings). metric: differentiable, `[samples]` (`mmxai.models.metrics`). sites: of one tower. correct:
    treat q and k as AtP* does, where the tower shows its pattern; else their gradients serve. Costs a
    forward, and a forward and backward with what they keep of all sites in memory.
    """
    into, source = checked_pair(model, into, source)
    chosen = model.resolve(sites)
    if not chosen or len({model.space_of(s) for s in chosen}) != 1:
        raise ArgumentError(f"attribute: got sites {chosen}, expected some of one tower's row space")
    needed = list(getattr(metric, "needs", ()))
    run = model.run(source, capture=[*chosen, *needed], edit=source_edit)
    other = metric(run, source).detach().float().cpu()
    states = {site: run.acts[site] for site in chosen}
    base, effects, corrected = effects_of(model, into, metric, states, edit=into_edit, correct=correct)
    arrays = {site: effect.cpu().numpy() for site, effect in effects.items()}
    return Attribution(base.numpy(), other.numpy(), arrays, corrected)


def effects_of(
    model: Model,
    into: Inputs,
    metric: Metric,
    states: Mapping[str, torch.Tensor],
    *,
    edit: Mapping[str, Edit | Sequence[Edit]] | None = None,
    correct: bool = True,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[str]]:
    """The metric of the run of `into`, float32 `[samples]`; site -> effects `[B, rows, units]` of putting
    `states` `[B, T, D]` in; the sites whose patterns were computed. See `attribute`."""
    patterns = _patterns(model, states) if correct else {}
    needed = list(getattr(metric, "needs", ()))
    captured = [*dict.fromkeys([*states, *patterns.values()])]
    effects: dict[str, torch.Tensor] = {}
    with _short(model, into, bool(patterns)):
        theirs: dict[torch.nn.Module, attention.Received] = {}
        if patterns:
            # All queries and keys at once: whatever else this run does, its attention gets them rotated.
            put = {site: partial(_become, states[site]) for site in patterns}
            with attention.receiving() as theirs:
                model.run(into, capture=list(patterns.values()), edit=put, stop=True)
        with attention.receiving() as ours:
            run = model.run(into, capture=[*captured, *needed], edit=edit, grad=True)
        base, grads = gradients_of(run, into, metric, captured)
    for site, state in states.items():
        heads = model.heads_of(site) or 1
        if site in patterns:
            at = patterns[site]
            module = model.point_of(at).module
            effects[site] = _through_pattern(
                site.rpartition(".")[2], _unpadded(run.acts[at], ours[module]),
                _unpadded(grads[at], ours[module]), ours[module], theirs[module], heads,
            )  # fmt: skip
        else:
            product = (state.float() - run.acts[site].detach().float()) * grads[site].float()
            effects[site] = product.unflatten(-1, (heads, -1)).sum(-1)
    return base, effects, list(patterns)


def _become(value: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return value


def gradients_of(
    run: Run, inputs: Inputs, metric: Metric, sites: Sequence[str]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The metric float32 `[samples]` of a run made with grad=True, and its gradients at captured sites."""
    with torch.enable_grad():
        value = metric(run, inputs)
    if not value.requires_grad:
        raise ArgumentError(
            "the metric does not depend on the sites through autograd; expected one that is made of the "
            "run's output without detaching, and sites before what it reads"
        )
    grads = torch.autograd.grad(value.sum(), [run.acts[s] for s in sites], allow_unused=True)
    found = {
        site: torch.zeros_like(run.acts[site]) if grad is None else grad
        for site, grad in zip(sites, grads, strict=True)
    }
    return value.detach().float().cpu(), found


def _patterns(model: Model, sites: Iterable[str]) -> dict[str, str]:
    """Of queries and keys the pattern that they make, where the model's attention shows it."""
    known = model.sites()
    made = {s: f"{s.rpartition('.')[0]}.pattern" for s in sites if s.rpartition(".")[2] in ("q", "k")}
    return {
        site: pattern
        for site, pattern in made.items()
        if pattern in known and attention.shown(model.point_of(pattern))
    }


@contextmanager
def _short(model: Model, inputs: Inputs, patterns: bool) -> Iterator[None]:
    """Patterns as wide as these inputs need, not as the longest text."""
    towers = [t for name, t in model.towers.items() if name in inputs.rows] if patterns else []
    before = [tower.length for tower in towers]
    for tower in towers:
        tower.length = inputs.rows[tower.name].shape[1]
    try:
        yield
    finally:
        for tower, length in zip(towers, before, strict=True):
            tower.length = length


def _unpadded(flat: torch.Tensor, received: attention.Received) -> torch.Tensor:
    """`[B, T, heads * L]` -> float32 `[B, heads, T, keys]`."""
    heads, keys = received.query.shape[1], received.key.shape[2]
    return flat.detach().float().unflatten(-1, (heads, -1))[..., :keys].transpose(1, 2)


def _logits(query: torch.Tensor, key: torch.Tensor, like: attention.Received) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    key = key.float().repeat_interleave(groups, dim=1)
    raw = query.float() @ key.transpose(-1, -2) * like.scaling
    return raw if like.softcap is None else like.softcap * torch.tanh(raw / like.softcap)


def _through_pattern(
    kind: str,
    pattern: torch.Tensor,
    grad: torch.Tensor,
    ours: attention.Received,
    theirs: attention.Received,
    heads: int,
) -> torch.Tensor:
    """float32 `[B, rows, heads]`: effect of each query, or each key, of the other run. Keys that groups of
    queries share act on all of them at once."""
    now = _logits(ours.query, ours.key, ours)
    if kind == "q":
        change = _logits(theirs.query, ours.key, ours) - now
        # Where p is 0 the key is masked. The largest change is taken off, so that no exponential overflows.
        change = change.masked_fill(pattern == 0, -torch.inf)
        weight = pattern * (change - change.amax(-1, keepdim=True)).exp()
        moved = weight / weight.sum(-1, keepdim=True) - pattern
        return (moved * grad).sum(-1).transpose(1, 2)
    change = _logits(ours.query, theirs.key, ours) - now
    # r of the head of this file, written so that neither a large nor a small e^d loses digits.
    ratio = torch.where(
        change > 0,
        pattern * -torch.expm1(-change) / (pattern + (1 - pattern) * torch.exp(-change)),
        pattern * torch.expm1(change) / (1 + pattern * torch.expm1(change)),
    )
    ratio = torch.where(pattern == 0, 0.0, ratio)
    mean = (pattern * grad).sum(-1, keepdim=True)
    effect = (ratio * (grad - mean)).sum(2)
    return effect.unflatten(1, (heads, -1)).sum(2).transpose(1, 2)
