"""Principal components as a sparse autoencoder: what linear structure alone explains at the same L0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from mmxai.errors import ArgumentError
from mmxai.linalg import Moments
from mmxai.methods.sae.model import SAE
from mmxai.methods.sae.spec import SAESpec


def pca_sae(like: SAESpec, k: int, rows: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> SAE:
    """An SAE of the same sites whose latents are the principal components of the input, both signs of each.

    rows: blocks (x `[N, D]`, target `[N, E]`), in the sites' units. It keeps the `k` components of largest
    magnitude of each row, which of all choices of k components errs least. As codes are positive, component i
    is latent i where it is positive and latent D + i where it is negative; so M = 2 D, of which k <= D are
    active. A transcoder's decoder is the least-squares map from the (uncorrelated) components to the
    target.
    """
    d, e = like.width_in, like.width_out
    same = like.sites_in == like.sites_out
    moments = Moments(d if same else d + e)
    for x, target in rows:
        moments.update(x if same else torch.cat([x, target], 1))
    if moments.count < 2:
        raise ArgumentError(f"pca: got {moments.count} rows, expected at least 2")
    mean, covariance = moments.mean, moments.covariance
    inner = Moments(d)
    inner.count, inner.mean, inner.scatter = moments.count, mean[:d], moments.scatter[:d, :d]
    directions, variances = inner.components()
    if same:
        written = directions
    else:
        shared = covariance[:d, d:]  # [D, E]: how each input value goes with each output value
        least = 1e-12 * float(variances[0])
        explained = (directions @ shared) / variances.clamp(min=least)[:, None]
        written = torch.where(variances[:, None] > least, explained, torch.zeros_like(explained))
    spec = replace(
        like, arch="topk", latents=2 * d, k=min(k, d), prefixes=(), skip=False, centred=same,
        scale=(1.0,) * len(like.sites_in), scale_out=(1.0,) * len(like.sites_out), row_norm="none",
        notes=f"the {d} principal components of {moments.count} rows, both signs",
    )  # fmt: skip
    both = torch.cat([directions, -directions])
    return SAE(
        spec,
        W_enc=both.float().contiguous(),
        # Without centring by b_dec, which is the target's mean, the input's mean goes into the bias.
        b_enc=torch.zeros(2 * d) if same else -(both @ mean[:d]).float(),
        W_dec=torch.cat([written, -written]).float().contiguous(),
        b_dec=(mean if same else mean[d:]).float(),
    )
