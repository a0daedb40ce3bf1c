"""Which layer's answer is whose: agreement and divergence between every two points of the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.unembed_topk import unembed_topk
from mmxai.methods.lens.results import settled_at, stream_of
from mmxai.methods.lens.run import chosen_states, end_of
from mmxai.methods.lens.sources import Live, Source, Stored
from mmxai.methods.lens.states import Stack, Translator
from mmxai.models.unembedding import Unembedding, unembedding
from mmxai.results import Result, axes, lines_of, number
from mmxai.types import TOKEN_TYPES

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.models import Model
    from mmxai.store import Store

_ROWS = 64  # rows whose states are compared at once
_CELLS = 1 << 21  # numbers of logits of all states that are held


@dataclass(repr=False)
class Transfer(Result):
    """Of L points of the stream, over `rows` rows.

    agreement float64 `[L, L]`: share of rows where two say the same. kl `[L, L]`: KL(m || l), nats, mean over
    rows: what row l's distribution lacks of column m's. first: by token type ("all": every), int64 `[L + 1]`:
    rows whose answer is the last one's from that point on (`LensResult.first_final`).
    """

    model: str
    tower: str
    states: list[str]
    rows: int
    agreement: np.ndarray
    kl: np.ndarray
    first: dict[str, np.ndarray]

    def summary(self) -> str:
        head = f"{self.model}, {self.tower}: {len(self.states)} points of the stream, {self.rows:,} rows"
        reached = np.cumsum(self.first["all"]) / self.rows
        lines = [
            (state, f"{self.agreement[i, -1]:.1%}", f"{reached[i]:.1%}", number(self.kl[i, -1]))
            for i, state in enumerate(self.states)
        ]
        columns = ("", "says the last's answer", "and so do all later", "KL of the last to it")
        return f"{head}\n{lines_of(columns, lines)}"

    def to_pandas(self) -> pandas.DataFrame:
        """A row a pair."""
        import pandas

        return pandas.DataFrame(
            {
                "state": np.repeat(self.states, len(self.states)), "of": self.states * len(self.states),
                "agreement": self.agreement.ravel(), "kl": self.kl.ravel(),
            }
        )  # fmt: skip

    def plot(self, ax: Axes | None = None) -> Axes:
        """Agreement of every two."""
        ax = axes(ax)
        ax.imshow(self.agreement, vmin=0, vmax=1, cmap="viridis")
        ax.set_xticks(range(len(self.states)), self.states, rotation=60, ha="right")
        ax.set_yticks(range(len(self.states)), self.states)
        return ax


def transfer(
    model: Model,
    inputs: Any,
    *,
    sites: str | Sequence[str] | None = None,
    tower: str | None = None,
    texts: Sequence[str] | torch.Tensor | None = None,
    unembed: Unembedding | None = None,
    translator: Translator | None = None,
    batch: int = 8,
    generate: int = 0,
) -> Transfer:
    """Every two points of the stream of a running model held against each other; arguments as of `lens`."""
    unembed = unembed or unembedding(model, tower, texts)
    return compare(Live(model, inputs, batch, generate), unembed, sites, translator)


def transfer_store(
    store: Store,
    end: Model | Unembedding,
    *,
    sites: str | Sequence[str] | None = None,
    tower: str | None = None,
    texts: Sequence[str] | torch.Tensor | None = None,
    unembed: Unembedding | None = None,
    translator: Translator | None = None,
    tokens: str | None = None,
    samples: int | None = None,
    batch: int = 512,
) -> Transfer:
    """As `transfer`, of a store; arguments as of `lens_store`."""
    model, unembed = end_of(end, tower, texts, unembed)
    source = Stored(store, model, tokens=tokens, samples=samples, batch=batch)
    return compare(source, unembed, sites, translator)


def compare(
    source: Source,
    unembed: Unembedding,
    sites: str | Sequence[str] | None,
    translator: Translator | None,
) -> Transfer:
    """On any source. Logits are held for `_CELLS` of states, rows and tokens at once, whatever there is."""
    states, space = chosen_states(source, unembed, sites)
    picked = [states[i] for i in stream_of([s.name for s in states])]
    if len(picked) < 2:
        raise ArgumentError(
            f"transfer: got {[s.name for s in states]}, expected two points of the stream at least"
        )
    stack, count = Stack(picked, unembed, translator), len(picked)
    agreement, kl = np.zeros((count, count)), np.zeros((count, count))
    first: dict[str, np.ndarray] = {"all": np.zeros(count + 1, np.int64)}
    rows = 0
    for seen in source.read(stack.sites, space):
        kinds = seen.rows.token_type.numpy()
        for start in range(0, len(kinds), _ROWS):
            at = slice(start, start + _ROWS)
            with torch.no_grad():
                normed = stack({site: x[at] for site, x in seen.acts.items()})
                best, apart = _pairs(normed, unembed, count)
            agreement += (best[:, None] == best[None]).sum(2)
            kl += apart
            settled = settled_at(best, best[-1])
            first["all"] += np.bincount(settled, minlength=count + 1)
            for kind in np.unique(kinds[at]).tolist():
                name = TOKEN_TYPES[kind] if kind >= 0 else "pooled"
                own = np.bincount(settled[kinds[at] == kind], minlength=count + 1)
                first[name] = first.get(name, np.zeros(count + 1, np.int64)) + own
        rows += len(kinds)
    if not rows:
        raise ArgumentError("transfer: got no rows, expected one at least")
    names = [s.name for s in picked]
    return Transfer(source.name, unembed.tower, names, rows, agreement / rows, kl / rows, first)


def _pairs(normed: torch.Tensor, unembed: Unembedding, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of normed states `[L n, D']`: what each says, `[L, n]`, and the sums over rows of KL(m || l), `[L, L]`.

    KL(m || l) = E_m log p_m - E_m log p_l: a product of L x L for each row, summed over tiles of the
    vocabulary.
    """
    out = unembed_topk(
        normed.contiguous(),
        unembed.weight,
        bias=unembed.bias,
        k=1,
        scale=unembed.scale,
        softcap=unembed.softcap,
    )
    rows = len(normed) // count
    expected = torch.zeros(rows, count, count, dtype=torch.float64, device=normed.device)
    tile = max(1, _CELLS // len(normed))
    for start in range(0, unembed.size, tile):
        logs = unembed.tile(normed, slice(start, start + tile)) - out.logsumexp[:, None]
        logs = logs.unflatten(0, (count, rows)).transpose(0, 1)  # [n, L, tokens]
        expected += torch.bmm(logs.exp(), logs.transpose(1, 2))  # [n, m, l]
    own = expected.diagonal(dim1=1, dim2=2)[..., None]
    apart = (own - expected).sum(0).T.clamp(min=0)  # rounding
    return out.ids[:, 0].reshape(count, rows).cpu().numpy(), apart.cpu().numpy()
