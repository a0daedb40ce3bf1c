"""What an SAE of any library comes down to: weights in the units of the site, no scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.sae.model import SAE
from mmxai.methods.sae.spec import WITH_K, Arch, SAESpec

RowNorm = Literal["none", "layer_norm"]
SHORTEST = 1e-8
"""What a decoder row is divided by at least, as SAELens has it."""


def unit_rows(found: Mapping[str, Any]) -> dict[str, Any]:
    """Weights by their names in `Plain`, the same function: decoder rows of length 1, latents as much larger.

    A row of zeros, which stands for a latent that reconstructs nothing, stays one. Thresholds are left alone.
    """
    norms = found["W_dec"].float().norm(dim=1).clamp(min=SHORTEST)
    return dict(found) | {
        "W_enc": found["W_enc"].float() * norms[:, None],
        "b_enc": found["b_enc"].float() * norms,
        "W_dec": found["W_dec"].float() / norms[:, None],
    }


@dataclass(frozen=True)
class Plain:
    """One site in, one out. W_enc `[M, D]`, W_dec `[M, E]`, W_skip `[E, D]`; names as in mmxai's FORMAT.md.

    Readers make it from a foreign layout and `sae` makes an SAE of it; `of` is the way back. Weights that are
    folded become float32, others keep their dtype.
    """

    arch: Arch
    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor
    threshold: torch.Tensor | None = None
    W_skip: torch.Tensor | None = None
    k: int | None = None
    prefixes: tuple[int, ...] = ()
    centred: bool = True
    row_norm: RowNorm = "none"
    site_in: str = "unknown"
    site_out: str = ""
    """Not given: `site_in`."""
    scale: float = 1.0
    """Of the input and the output, where a library stores one; `of` folds it."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""

    @property
    def transcoder(self) -> bool:
        return self.site_out not in ("", self.site_in)

    @property
    def model_name(self) -> str | None:
        """Of the model it is for, under the names that it has here, in SAELens and in dictionary_learning."""
        model = self.identity.get("model")
        name = model.get("name") if isinstance(model, Mapping) else None
        return name or self.identity.get("model_name") or self.identity.get("lm_name")

    def centre(self, centred: bool) -> Plain:
        """The same function with `b_dec` subtracted from the input, or not; `b_enc` makes up for it."""
        if centred == self.centred:
            return self
        shift = (self.W_enc.double() @ self.b_dec.double()).float()
        return replace(self, centred=centred, b_enc=self.b_enc.float() + (shift if centred else -shift))

    @property
    def dtype(self) -> torch.dtype:
        """Of all its tensors: float32 once one of them was folded, else what they came in."""
        tensors = (self.W_enc, self.b_enc, self.W_dec, self.b_dec, self.threshold, self.W_skip)
        return reduce(torch.promote_types, (t.dtype for t in tensors if t is not None))

    def sae(self) -> SAE:
        """As an SAE; ArgumentError where its parts do not fit each other."""
        found = {
            name: getattr(self, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip")
        }
        tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
        out = self.site_out or self.site_in
        spec = SAESpec(
            self.arch,
            latents=len(self.W_enc),
            sites_in=(self.site_in,),
            widths_in=(self.W_enc.shape[1],),
            sites_out=(out,),
            widths_out=(self.W_dec.shape[1],),
            k=self.k if self.arch in WITH_K else None,
            prefixes=self.prefixes,
            skip=self.W_skip is not None,
            centred=self.centred,
            row_norm=self.row_norm,
            scale=(self.scale,),
            scale_out=(self.scale,),
            identity=dict(self.identity),
            notes=self.notes,
        )
        return SAE(spec, **{name: tensor.to(self.dtype).contiguous() for name, tensor in tensors.items()})

    def refuse_row_norm(self, layout: str) -> None:
        """ArgumentError where rows are normalised, for a layout that cannot say so."""
        if self.row_norm != "none":
            raise ArgumentError(
                f"{layout}: got an SAE with row_norm {self.row_norm!r}, expected none: its layout has no "
                "such; SAELens's holds it"
            )

    @classmethod
    def of(cls, sae: SAE) -> Plain:
        """`sae` with its scales folded into its weights; latents keep their values."""
        spec = sae.spec
        if len(spec.sites_in) > 1 or len(spec.sites_out) > 1:
            raise ArgumentError(
                f"got a crosscoder of {', '.join(spec.sites)}, expected an SAE or transcoder of one site: "
                "no other library's layout holds several; keep it as mmxai saves it"
            )
        made = cls(
            spec.arch, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.threshold, sae.W_skip, spec.k,
            spec.prefixes, bool(spec.centred), spec.row_norm, spec.sites_in[0], spec.sites_out[0],
            identity=spec.identity, notes=spec.notes,
        )  # fmt: skip
        into, out = spec.scale[0], spec.scale_out[0]
        if into == out == 1:
            return made
        if into != out:  # b_dec in the input's units is not b_dec in the output's
            made = made.centre(False)
        return replace(
            made,
            W_enc=made.W_enc.float() * into,
            W_dec=made.W_dec.float() / out,
            b_dec=made.b_dec.float() / out,
            W_skip=None if made.W_skip is None else made.W_skip.float() * (into / out),
        )
