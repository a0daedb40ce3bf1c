"""Where states come from: a running model, or a store, in batches that are never held together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.lens.targets import shifted
from mmxai.models import names
from mmxai.models.feeds import samples_of
from mmxai.models.inputs import Inputs
from mmxai.models.metrics import number_samples
from mmxai.store.select import RowFilter, select_rows
from mmxai.types import ROW_COLUMNS, TOKEN_CODES, Rows

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.store import Store

_TYPE = ROW_COLUMNS.index("token_type")


@dataclass(frozen=True)
class Seen:
    """Sites `[N, W]` of some rows; following: the row behind each; samples: what is known of theirs."""

    acts: Mapping[str, torch.Tensor]
    rows: Rows
    following: Rows
    samples: Mapping[int, dict[str, Any]] = field(default_factory=dict)


class Source(Protocol):
    """widths: of every site there is. model: None of a store alone."""

    name: str
    model: Model | None
    widths: Mapping[str, int]

    def resolve(self, sites: str | Sequence[str]) -> list[str]: ...
    def space_of(self, site: str) -> str: ...
    def read(self, sites: Sequence[str], space: str) -> Iterator[Seen]: ...


class Live:
    """inputs: what `model.prepare` takes; samples given as they are run `batch` at a time."""

    def __init__(self, model: Model, inputs: Any, batch: int, generate: int = 0):
        """generate: so many tokens that the model says behind each text are looked at, too."""
        if batch < 1 or generate < 0:
            raise ArgumentError(f"lens: got batch={batch}, generate={generate}, expected at least 1 and 0")
        self.name = model.name
        self.model: Model | None = model
        self.widths: Mapping[str, int] = model.sites()
        self._model, self._inputs, self._batch, self._generate = model, inputs, batch, generate

    def resolve(self, sites: str | Sequence[str]) -> list[str]:
        return self._model.resolve(sites)

    def space_of(self, site: str) -> str:
        return self._model.space_of(site)

    def read(self, sites: Sequence[str], space: str) -> Iterator[Seen]:
        for given, known in self._batches():
            if self._generate:
                given, _ = self._model.continued(given, self._generate)
            run = self._model.run(given, capture=sites, stop=True)
            table = run.rows[space]
            kept = table[..., _TYPE] != TOKEN_CODES["pad"]
            rows = Rows(table[kept])
            acts = {site: run.acts[site][kept.to(run.acts[site].device)] for site in sites}
            yield Seen(acts, rows, shifted(rows), known)

    def _batches(self) -> Iterator[tuple[Inputs, dict[int, dict[str, Any]]]]:
        """Inputs with what is known of their samples, numbered in their order."""
        inputs, model = self._inputs, self._model
        ready = isinstance(inputs, Inputs | torch.Tensor)
        if ready or (isinstance(inputs, dict) and not {"image", "text"} & set(inputs)):
            given = model.prepare(inputs)
            if not isinstance(inputs, Inputs):
                number_samples(given, 0)
            yield given, {}
            return
        samples = samples_of(inputs)
        if not samples:
            raise ArgumentError("lens: got no samples, expected one at least")
        for start in range(0, len(samples), self._batch):
            part = samples[start : start + self._batch]
            encoded = [model.encode(s).at(start + i) for i, s in enumerate(part)]
            known = {
                start + i: {"text": e.text, "size": e.size, "tiles": e.tiles} for i, e in enumerate(encoded)
            }
            yield model.collate(encoded), known


class Stored:
    """Rows of a store, in their order. tokens: as in `store.batches`; samples: the first so many alone.

    model: what was harvested, where it is at hand: single heads need its output matrices.
    """

    def __init__(
        self, store: Store, model: Model | None, *, tokens: str | None, samples: int | None, batch: int
    ):
        if batch < 1 or (samples is not None and samples < 1):
            raise ArgumentError(f"lens: got batch={batch}, samples={samples}, expected at least 1")
        self.name, self.model = store.path.name, model
        self.widths: Mapping[str, int] = store.sites
        self._store, self._tokens, self._samples, self._batch = store, tokens, samples, batch

    def resolve(self, sites: str | Sequence[str]) -> list[str]:
        return names.resolve_stored(sites, self._store.sites)

    def space_of(self, site: str) -> str:
        return self._store[site].space

    def read(self, sites: Sequence[str], space: str) -> Iterator[Seen]:
        store, table = self._store, self._store.rows[space]
        chosen = self._chosen(space)
        options = {"dtype": torch.float32, "rows": chosen}
        with store.batches(self._batch, sites=list(sites), **options) as loader:
            for i, batch in enumerate(loader):
                own = chosen[i * self._batch : (i + 1) * self._batch]
                following = table.gather(np.minimum(own + 1, len(table) - 1))
                numbers = batch.rows.sample.unique().tolist()
                known = {s: _about(store.samples[s]) for s in numbers if s >= 0}
                yield Seen(batch, batch.rows, following, known)

    def _chosen(self, space: str) -> np.ndarray:
        view, table = self._store.view, self._store.rows[space]
        found = select_rows(view, space, RowFilter.parse(self._tokens, None, (0.8, 0.1, 0.1)), None)
        chosen = np.arange(len(table)) if found is None else np.asarray(found)
        if self._samples is not None and len(chosen):
            # Samples lie together, so the first ones end where another begins.
            sample = table.sample.numpy()[chosen]
            begins = np.flatnonzero(np.diff(sample, prepend=sample[0] - 1))
            chosen = chosen[: begins[self._samples]] if len(begins) > self._samples else chosen
        return chosen


def _about(sample: Any) -> dict[str, Any]:
    return {"text": sample.text, "size": sample.size, "tiles": sample.tiles, "key": sample.key}
