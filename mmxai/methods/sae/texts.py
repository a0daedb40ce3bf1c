"""Names of a CLIP's latents: texts nearest to their decoder directions, as `models.near_texts` has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.sae.rows import trained_config
from mmxai.models.near_texts import DIRECTIONS, NearTexts
from mmxai.models.near_texts import near_texts as near

if TYPE_CHECKING:
    from mmxai.methods.sae.model import SAE
    from mmxai.models import Model


def near_texts(
    sae: SAE,
    model: Model,
    texts: Sequence[str],
    latents: Sequence[int],
    *,
    number: int = 8,
    directions: int = DIRECTIONS,
    seed: int = 0,
) -> NearTexts:
    """The `number` nearest of `texts` to each latent's decoder direction.

    Raises ArgumentError where the SAE writes to several sites, the model has no joint space, or the site does
    not write to the residual stream of its tower in one linear step.
    """
    spec = sae.spec
    latents = [int(n) for n in latents]
    if wrong := [n for n in latents if not 0 <= n < spec.latents]:
        raise ArgumentError(f"near_texts: got latents {wrong[:8]}, expected 0 <= latent < {spec.latents:,}")
    if len(spec.sites_out) != 1:
        raise ArgumentError(
            f"near_texts: got directions over the sites {list(spec.sites_out)}, expected those of one site"
        )
    tokens = trained_config(spec).get("tokens") or ",".join(
        spec.identity.get("selection", {}).get("tokens") or ()
    )
    rows = sae.W_dec[torch.as_tensor(latents)]
    return near(
        model, spec.sites_out[0], rows, texts, latents, number=number, random=directions,
        tokens=tokens, seed=seed,
    )  # fmt: skip
