"""Which rows of a store an SAE is about: its sites, the token types and the samples it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError, RowSpaceError
from mmxai.methods.sae.spec import SAESpec

if TYPE_CHECKING:
    from mmxai.store.reader import Store


def check_sites(spec: SAESpec, store: Store, *, out: bool = True) -> str:
    """The row space of the SAE's sites (out=False: of those it reads). UnknownSiteError, ArgumentError,
    RowSpaceError where the store has not all of them, at these widths, in one row space."""
    widths = dict(zip(spec.sites_in, spec.widths_in, strict=True))
    if out:
        widths |= dict(zip(spec.sites_out, spec.widths_out, strict=True))
    for site, width in widths.items():
        if store[site].width != width:
            raise ArgumentError(
                f"sae: got a store whose {site} is {store[site].width} wide, expected {width}, that of the "
                "SAE; give the store of the model it was trained on"
            )
    spaces = {site: store[site].space for site in widths}
    if len(set(spaces.values())) > 1:
        raise RowSpaceError(f"sae: got sites of row spaces {spaces}, expected one row space for all")
    return spaces[spec.sites_in[0]]


def trained_config(spec: SAESpec) -> Mapping[str, Any]:
    """The options that the SAE was trained with, as JSON; empty where it does not say (another library's)."""
    found: Mapping[str, Any] = spec.identity.get("train", {}).get("config", {})
    return found


def trained_split(spec: SAESpec) -> str | None:
    """Which split of the samples the SAE was trained on, None: all; "train" where it does not say."""
    return trained_config(spec).get("split", "train")


def selection_of(spec: SAESpec, split: str | None) -> dict[str, Any]:
    """`tokens` and `split` for `store.batches`: the kind of rows the SAE was trained on, of a split."""
    return {"tokens": trained_config(spec).get("tokens"), "split": split}


def spliced_tokens(spec: SAESpec, store: Store) -> str | None:
    """Token types whose rows in the model the SAE can stand for, comma-separated: those it was trained on, of
    those that were harvested. None: all."""
    harvested = store.plan.identity.get("selection", {}).get("tokens")
    return trained_config(spec).get("tokens") or (",".join(harvested) if harvested else None)


def training_rows(spec: SAESpec, store: Store, rows: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Up to `rows` rows (whole blocks) of those the SAE was trained on, (x, target) a block, float32."""
    options = selection_of(spec, trained_split(spec))
    seen = 0
    loader = store.batches(4096, sites=list(spec.sites), shuffle=True, dtype=torch.float32, **options)
    with loader:
        for batch in loader:
            yield inputs_and_targets(spec, batch)
            seen += batch.num_rows
            if seen >= rows:
                return


def inputs_and_targets(spec: SAESpec, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """x `[N, D]` and target `[N, E]` of a batch, float32; the same tensor where the sites are the same."""

    def side(sites: tuple[str, ...]) -> torch.Tensor:
        return torch.cat([batch[s].float() for s in sites], 1) if len(sites) > 1 else batch[sites[0]].float()

    x = side(spec.sites_in)
    return x, x if spec.sites_out == spec.sites_in else side(spec.sites_out)
