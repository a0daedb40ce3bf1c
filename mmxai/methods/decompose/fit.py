"""A dictionary of a site of a store: which rows, which algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.decompose.config import KINDS, FitConfig, Kind
from mmxai.methods.decompose.dictionary import Dictionary
from mmxai.methods.decompose.ica import fit_ica
from mmxai.methods.decompose.kmeans import fit_kmeans
from mmxai.methods.decompose.nmf import fit_nmf
from mmxai.methods.decompose.pca import fit_pca, moments_of
from mmxai.methods.decompose.stream import Blocks, RowStream

if TYPE_CHECKING:
    from mmxai.linalg import Moments
    from mmxai.store.reader import Store


def fit_dictionary(
    store: Store,
    site: str,
    kind: Kind,
    config: FitConfig | None = None,
    *,
    moments: Moments | None = None,
    say: Callable[[str], object] | None = None,
    **options: Any,
) -> Dictionary:
    """Fit `config.units` directions of `site`; options: fields of `FitConfig`, over those of `config`.

    moments: of the same rows, where they are known. say: called before each pass over the rows. No more than
    a block, a sample of `config.sample` rows and sums of K x D (pca, ica, centred kinds: D x D) are in memory
    at once.
    """
    config = replace(config or FitConfig(), **options)
    if kind not in KINDS:
        raise ArgumentError(f"decompose: got {kind!r}, expected one of {', '.join(KINDS)}")
    stream = stream_of(store, site, config)
    if not centred(kind, config):
        moments = None
    elif moments is None:
        moments = moments_of(stream)
    offset = torch.zeros(store[site].width) if moments is None else moments.mean
    total, encoder = stream.count(), None
    facts: dict[str, Any] = {}
    if kind == "pca":
        assert moments is not None  # centred
        directions, facts = fit_pca(moments, config.units)
        encoder = directions
    else:
        sample = stream.sample(config.sample)
        # Where the sample is all there is, no pass follows.
        rows = _counted(stream, f"{kind}: pass", say) if total > len(sample) else None
        run: dict[str, Any] = {name: getattr(config, name) for name in ("warm", "passes", "tol", "seed")}
        if kind == "ica":
            assert moments is not None  # centred
            directions, encoder, facts = fit_ica(moments, lambda: iter([sample]), rows, config.units, **run)
        elif kind in ("kmeans", "spherical"):
            directions, facts = fit_kmeans(
                sample, rows, config.units, offset=offset, spherical=kind == "spherical", **run
            )
        else:
            directions, facts = fit_nmf(
                sample, rows, config.units, semi=kind == "seminmf", offset=offset,
                negative=config.negative, **run,
            )  # fmt: skip
    known = {"rows": total, "split": config.split, "seed": config.seed} | facts
    return Dictionary(kind, site, directions, offset, encoder=encoder, tokens=config.tokens, facts=known)


def _counted(blocks: Blocks, what: str, say: Callable[[str], object] | None) -> Blocks:
    """The same passes, each announced by its number."""
    number = count(1)

    def begin() -> Iterator[torch.Tensor]:
        if say is not None:
            say(f"{what} {next(number)}")
        return blocks()

    return begin


def centred(kind: Kind, config: FitConfig) -> bool:
    """Whether a kind is of rows less their mean, and so needs moments."""
    return kind in ("pca", "ica") or (config.centre and kind in ("seminmf", "spherical"))


def stream_of(store: Store, site: str, config: FitConfig) -> RowStream:
    """The rows that are fitted."""
    return RowStream(store, site, config.tokens, config.split, config.rows, config.seed)
