"""Latent neighbours: what a state lies nearest to among the contextual states of a store of texts.

The third lens, beside logit and tuned: a state of an image token, say, is read as the words in context whose
states of the same block (or of any other) it resembles. Nothing is trained and no unembedding is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.kernels.topk_product import topk_product
from mmxai.kernels.topk_rows import topk_rows
from mmxai.models.texts import TextPipeline
from mmxai.results import Result, axes, lines_of
from mmxai.store import Store
from mmxai.types import ROW_COLUMNS, TOKEN_TYPES

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

By = Literal["cosine", "dot"]

_SAMPLE, _POSITION, _TYPE, _TOKEN = (
    ROW_COLUMNS.index(c) for c in ("sample", "position", "token_type", "token_id")
)
_SHOWN = 12


@dataclass(frozen=True)
class Neighbour:
    """One stored state. span: which characters of `text` are its token; None where the text is not known, or
    is not what these tokens were made of (a cut or packed one, a tokenizer without offsets)."""

    site: str
    score: float
    sample: int
    position: int
    token_type: str
    token_id: int
    token: str
    key: str
    text: str | None
    span: tuple[int, int] | None

    def context(self, width: int = 32) -> str:
        """The token in «», between `width` characters of what stands before and behind it."""
        if self.text is None or self.span is None:
            return f"«{self.token}»"
        start, stop = self.span
        before, behind = self.text[max(0, start - width) : start], self.text[stop : stop + width]
        cut, more = "…" if start > width else "", "…" if len(self.text) > stop + width else ""
        return f"{cut}{before}«{self.text[start:stop]}»{behind}{more}".replace("\n", " ")


@dataclass(repr=False)
class Neighbours(Result):
    """scores float32 `[Q, k]`, best first; found: the states they belong to, query by query."""

    sites: list[str]
    by: str
    rows: int
    scores: torch.Tensor
    found: list[list[Neighbour]]

    def __getitem__(self, query: int) -> list[Neighbour]:
        return self.found[query]

    def summary(self) -> str:
        body = [
            (str(q), n.context(), n.site, f"{n.score:.3f}", n.key, str(n.position))
            for q, best in enumerate(self.found[:_SHOWN])
            for n in best[:1]
        ]
        more = f"\n… and {len(self.found) - _SHOWN} more" if len(self.found) > _SHOWN else ""
        head = f"Nearest by {self.by} of {self.rows:,} stored states of {', '.join(self.sites)}"
        return f"{head}\n{lines_of(('query', 'nearest', 'site', self.by, 'sample', 'at'), body)}{more}"

    def to_pandas(self) -> pandas.DataFrame:
        """A row a query and neighbour."""
        import pandas

        columns = ("site", "score", "sample", "position", "token_type", "token_id", "token", "key")
        return pandas.DataFrame(
            [
                {"query": q, "rank": r, **{c: getattr(n, c) for c in columns}, "context": n.context()}
                for q, best in enumerate(self.found)
                for r, n in enumerate(best)
            ]
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Scores by rank, a line a query."""
        ax = axes(ax)
        for line in self.scores[: 8 * _SHOWN]:
            ax.plot(range(1, len(line) + 1), line.numpy(), color="tab:blue", alpha=0.4)
        ax.set(xlabel="rank", ylabel=self.by)
        return ax


def neighbours(
    store: Store,
    states: torch.Tensor,
    sites: str | Sequence[str],
    *,
    k: int = 5,
    by: By = "cosine",
    centre: bool = False,
    tokens: str | Sequence[str] | None = ("text",),
    split: str | None = None,
    texts: TextPipeline | None = None,
    block: int = 8192,
) -> Neighbours:
    """The k stored states nearest to each of `states` `[Q, D]`, over all rows of `sites`.

    sites: one stored site, or several of one width that are searched as one. by: cosine, or dot product.
    centre: take each site's stored mean off its rows and off the states first; states of a stream share a
    large common part, beside which cosines are all near 1. tokens, split: which stored rows are searched, as
    in `Store.batches`; None: all. texts: the pipeline that made the store's tokens
    (`model.feeds.texts("text")`): it names tokens and finds them in their texts. block: rows at a time.

    Exact in float32, ties to the row that comes first. Held are a block of rows and `[Q, k]` numbers.
    """
    sites = [sites] if isinstance(sites, str) else list(sites)
    _check(store, states, sites, k, by, block)
    queries = states.detach().float()
    scores = torch.full((len(queries), 0), 0.0)
    tables = torch.empty(len(queries), 0, len(ROW_COLUMNS) + 1, dtype=torch.int32)
    seen = 0
    for number, site in enumerate(sites):
        mean = _mean(store, site) if centre else None
        asked = _ready(queries, mean, by).cpu()
        loader = store.batches(block, sites=[site], tokens=tokens, split=split, dtype=torch.float32)
        with closing(loader):
            for batch in loader:
                rows = _ready(batch.x, mean, by)
                best, index = topk_product(asked, rows, min(k, len(rows)), bias=torch.zeros(len(rows)))
                table = torch.nn.functional.pad(batch.rows.table[index.long()], (0, 1), value=number)
                scores, tables = _merge(torch.cat([scores, best], 1), torch.cat([tables, table], 1), k)
                seen += len(rows)
    if not torch.isfinite(scores).all():
        query, rank = (~torch.isfinite(scores)).nonzero()[0].tolist()
        row = tables[query, rank].tolist()
        raise NonFiniteError(
            f"neighbours: got a score of {float(scores[query, rank])} between state {query} and "
            f"{sites[row[-1]]} of sample {row[_SAMPLE]}, position {row[_POSITION]}, expected finite states"
        )
    if seen < k:
        raise ArgumentError(f"neighbours: got k={k}, expected at most {seen}, the stored rows searched")
    namer = _Namer(store, texts)
    found = [
        [namer(sites[row[-1]], float(score), row) for score, row in zip(line, rows.tolist(), strict=True)]
        for line, rows in zip(scores.tolist(), tables, strict=True)
    ]
    return Neighbours(sites, by, seen, scores, found)


def _check(store: Store, states: torch.Tensor, sites: list[str], k: int, by: str, block: int) -> None:
    if by not in get_args(By):
        raise ArgumentError(f"neighbours: got by={by!r}, expected one of {get_args(By)}")
    if k < 1 or block < 1 or not sites:
        raise ArgumentError(
            f"neighbours: got k={k}, block={block}, sites {sites}, expected at least one each"
        )
    widths = {site: store[site].width for site in sites}
    if states.ndim != 2 or set(widths.values()) != {states.shape[1]} or not states.is_floating_point():
        raise ArgumentError(
            f"neighbours: got states {states.dtype} {tuple(states.shape)} and sites of widths {widths}, "
            "expected floats (Q, D) of the sites' one width"
        )
    if not len(states):
        raise ArgumentError("neighbours: got no states, expected one at least")


def _mean(store: Store, site: str) -> torch.Tensor:
    return torch.as_tensor(store.stats[site].mean).float()


def _ready(x: torch.Tensor, mean: torch.Tensor | None, by: str) -> torch.Tensor:
    x = x if mean is None else x - mean.to(x.device)
    return torch.nn.functional.normalize(x, dim=1) if by == "cosine" else x.contiguous()


def _merge(scores: torch.Tensor, tables: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of those so far and those of a block, which stand behind them."""
    best, index = topk_rows(scores, min(k, scores.shape[1]))
    return best, tables.gather(1, index.long()[..., None].expand(-1, -1, tables.shape[2]))


class _Namer:
    """Row tables as neighbours; a sample is looked up, and its text cut to tokens, once."""

    def __init__(self, store: Store, texts: TextPipeline | None):
        self._store, self._texts = store, texts
        self._known: dict[int, tuple[str, str | None, list[int], Any]] = {}

    def __call__(self, site: str, score: float, row: list[int]) -> Neighbour:
        sample, position, token = row[_SAMPLE], row[_POSITION], row[_TOKEN]
        if sample not in self._known:
            self._known[sample] = self._sample(sample)
        key, text, ids, spans = self._known[sample]
        span = None
        if self._texts is not None and spans is not None:
            place = position - len(self._texts.prefix)
            if 0 <= place < len(ids) and ids[place] == token:
                span = int(spans[place][0]), int(spans[place][1])
        name = f"#{token}" if self._texts is None or token < 0 else self._texts.decode([token])
        kind = TOKEN_TYPES[row[_TYPE]] if row[_TYPE] >= 0 else ""
        return Neighbour(site, score, sample, position, kind, token, name, key, text, span)

    def _sample(self, sample: int) -> tuple[str, str | None, list[int], Any]:
        known = self._store.samples[sample]
        if self._texts is None or known.text is None:
            return known.key, known.text, [], None
        ids, spans = self._texts.tokenize_spans(known.text)
        return known.key, known.text, ids, spans
