"""Where a model reads its output, and what it put out there, to hold the split against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmxai.errors import ArgumentError
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

if TYPE_CHECKING:
    from mmxai.methods.path.network import Network
    from mmxai.models import Model, Run
    from mmxai.models.inputs import Inputs

_TYPE = ROW_COLUMNS.index("token_type")


def read_positions(model: Model, tower: str, inputs: Inputs) -> torch.Tensor:
    """int64 `[B]`: the read-out token of each sample."""
    spec = model.towers[tower].spec
    if spec.input not in inputs.tensors or spec.readout is None:
        raise ArgumentError(
            f"path: got inputs with {sorted(inputs.tensors)}, expected what "
            f"the {tower} tower reads ({spec.input})"
        )
    rows = inputs.rows[tower]
    if spec.readout.token == "first":
        return torch.zeros(len(rows), dtype=torch.int64)
    if spec.readout.token == "last":
        steps = torch.arange(rows.shape[1])
        return torch.where(rows[..., _TYPE] != TOKEN_CODES["pad"], steps, -1).amax(1).long()
    ids = inputs.tensors["input_ids"].cpu()
    end = getattr(model.towers[tower].config, "eos_token_id", None)
    # As transformers' CLIP has it: 2 stands for old configs, whose end is the largest id; as in open_clip.
    return ids.argmax(1) if end in (None, 2) else (ids == end).int().argmax(1)


@dataclass(frozen=True)
class OwnOutput:
    """Takes the model's own output `[B, out]` of a run that captured `sites`."""

    site: str | None
    pooled: bool

    @property
    def sites(self) -> list[str]:
        return [] if self.site is None else [self.site]

    def __call__(self, run: Run, at: torch.Tensor) -> torch.Tensor:
        every = torch.arange(len(at))
        if self.site is not None:
            x = run.acts[self.site]
            return x[:, 0] if self.pooled else x[every, at]
        # A tower run alone by a method puts out the tensor itself (open_clip).
        out = run.out
        if isinstance(out, torch.Tensor):
            return out
        logits = out.logits
        return logits[every, at] if logits.ndim == 3 else logits


def own_output(model: Model, tower: str, network: Network) -> OwnOutput:
    """What to capture, or of the forward's result to take."""
    sites = model.towers[tower].sites
    if network.matrix is not None:
        site = f"{tower}.embeds" if f"{tower}.embeds" in sites else None
    else:
        site = f"{tower}.ln_final" if f"{tower}.ln_final" in sites else None
        site = site or f"{tower}.{model.towers[tower].dims.blocks - 1}.resid_post"
    return OwnOutput(site, site is not None and model.space_of(site) != tower)
