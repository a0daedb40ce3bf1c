"""The SAE that made a store of codes, as methods that run the model take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmxai.errors import ArgumentError

if TYPE_CHECKING:
    from mmxai.methods.neurons import Latents
    from mmxai.store import Store


def latents_of(folder: str, store: Store, name: str, device: torch.device | str) -> Latents:
    """The latents of site `name`, which this SAE made. ArgumentError where it did not, or where what a latent
    writes is not one direction of one site."""
    from mmxai.cli._shown import same_sae
    from mmxai.methods.neurons import Latents
    from mmxai.methods.sae import load_sae

    sae = load_sae(folder, device)
    same_sae(sae, store)
    spec, identity = sae.spec, store.plan.identity
    if len(spec.sites_in) != 1 or spec.sites_out != spec.sites_in or spec.needs_input:
        raise ArgumentError(
            f"--sae {folder}: got {sae}, expected an SAE of one site without a skip path and row_norm, whose "
            "latents write one direction each; leave --model out"
        )
    selection = identity.get("selection") or {}
    if selection.get("pool"):
        raise ArgumentError(
            f"--sae {folder}: got codes of rows pooled by {selection['pool']!r}, expected those of rows that "
            "the model has; leave --model out"
        )
    tokens = identity.get("tokens") or selection.get("tokens") or ()
    directions = sae.W_dec.float().cpu() / spec.scale_out[0]
    return Latents(name, spec.sites_in[0], directions, sae.encode_dense, ",".join(tokens) or None)
