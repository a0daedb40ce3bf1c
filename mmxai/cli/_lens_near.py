"""`mmxai lens --neighbours`: the stored states of texts that a sample's last position lies nearest to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas
import torch

from mmxai.errors import ArgumentError
from mmxai.results import lines_of

if TYPE_CHECKING:
    from mmxai.models import Model

_BEST = 3


def near(model: Model, given: Sequence[Any], sites: Sequence[str], path: str) -> tuple[pandas.DataFrame, str]:
    """A row a sample, site and neighbour; and a table of the foremost. Each site's own stored rows are
    searched.

    given: samples, of which the last position is asked about. ArgumentError where `path` has none of `sites`.
    """
    from mmxai.cli._shown import same_model
    from mmxai.methods.lens.nearest import neighbours
    from mmxai.store import open_store

    frames = []
    with open_store(path) as store:
        same_model(model, store)
        shared = [site for site in sites if site in store.sites]
        if not shared:
            raise ArgumentError(
                f"--neighbours {path}: got none of {', '.join(list(sites)[:3])} ..., expected some, "
                f"it has {', '.join(list(store.sites)[:3])}"
            )
        tower = shared[0].partition(".")[0]
        states: dict[str, list[torch.Tensor]] = {site: [] for site in shared}
        for one in given:
            _, batch = model.capture([one], shared)
            for site in shared:
                states[site].append(batch[site][-1].float().cpu())
        for site in shared:
            found = neighbours(
                store, torch.stack(states[site]), site, k=_BEST, centre=True, texts=model.feeds.texts(tower)
            )
            frames.append(found.to_pandas())
    table = pandas.concat(frames, ignore_index=True)
    first = table[table["rank"] == 0]
    lines = [
        (str(q), site, f"{score:.2f}", context)
        for q, site, score, context in zip(
            first["query"], first["site"], first["score"], first["context"], strict=True
        )
    ]
    lines.sort(key=lambda line: int(line[0]))
    said = lines_of(("sample", "site", "cosine", "nearest in the store"), lines)
    return table, f"the last position lies nearest to (each site less its mean)\n{said}"
