"""A tower's residual stream as a graph: who writes to it, and who reads it through a norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmxai.capture.hooks import Point
from mmxai.errors import ArgumentError, ModelError
from mmxai.models import writing

if TYPE_CHECKING:
    from mmxai.models import Model


@dataclass(frozen=True)
class Writer:
    """after: the first place in the order of readers that reads it (in a parallel block the MLP does not read
    its own block's attention)."""

    name: str
    after: int

    def before(self, reader: Branch) -> bool:
        return self.after <= reader.order


@dataclass(frozen=True, eq=False)
class Branch:
    """A component's own reading of the stream: going into its norm, past which nothing else of the stream
    runs.

    order: 2 l of attention in block l, 2 l + 1 of its MLP, then the output.
    """

    name: str
    order: int
    point: Point


class Stream:
    """writers, readers: in model order. sites: what to capture to tell what each writer wrote."""

    def __init__(self, model: Model, tower: str, *, heads: bool):
        if tower not in model.towers:
            raise ArgumentError(f"got tower {tower!r}, expected one of {', '.join(model.towers)}")
        bound = model.towers[tower]
        residual = model.adapter.residual if model.adapter else ""
        if residual == "post-norm" or f"{tower}.ln_final" not in bound.sites:
            raise ModelError(
                f"{model.name}: {tower} has no stream that each component reads through a norm of its own "
                "(post-norm blocks, or no final norm), expected a pre-norm transformer; trace sites instead"
            )
        self.model, self.tower, self.heads = model, tower, bound.dims.heads if heads else 0
        self.start = f"{tower}.0.resid_pre"
        anatomy, blocks = bound.spec.anatomy, list(bound.root.get_submodule(bound.spec.blocks).children())
        step = 2 if residual == "parallel" else 1
        self.writers = [Writer("embeddings", 0)]
        self.readers: list[Branch] = []
        for number, block in enumerate(blocks):
            attention = [f"{number}.head.{h}" for h in range(self.heads)] or [f"{number}.attn"]
            self.writers += [Writer(name, 2 * number + step) for name in attention]
            self.writers.append(Writer(f"{number}.mlp", 2 * number + 2))
            for order, (kind, norm) in enumerate((("attn", anatomy.norm1), ("mlp", anatomy.norm2))):
                self.readers.append(
                    Branch(f"{number}.{kind}", 2 * number + order, _into(block.get_submodule(norm)))
                )
        last = bound.sites[f"{tower}.ln_final"].point.module
        self.readers.append(Branch("output", 2 * len(blocks), _into(last)))
        self.numbers = range(len(blocks))

    @property
    def sites(self) -> list[str]:
        kinds = ("z", "attn_out", "mlp_out") if self.heads else ("attn_out", "mlp_out")
        return [self.start, *(f"{self.tower}.{n}.{kind}" for n in self.numbers for kind in kinds)]

    def split(self, acts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Writer -> float32 `[B, T, D]`, of captured sites. The output projection's bias is no head's."""
        out = {"embeddings": acts[self.start].float()}
        for number in self.numbers:
            head = f"{self.tower}.{number}"
            whole = acts[f"{head}.attn_out"].float()
            if self.heads:
                z = acts[f"{head}.z"].float()
                matrix = writing.writes(self.model, f"{head}.z").to(z.device)
                writing.check_writes(f"{head}.z", z.flatten(0, 1), whole.flatten(0, 1), matrix)
                parts = zip(
                    z.unflatten(-1, (self.heads, -1)).unbind(-2), matrix.chunk(self.heads), strict=True
                )
                out.update({f"{number}.head.{h}": part @ own for h, (part, own) in enumerate(parts)})
            else:
                out[f"{number}.attn"] = whole
            out[f"{number}.mlp"] = acts[f"{head}.mlp_out"].float()
        return out


def _into(module: torch.nn.Module) -> Point:
    # Not in place: what replaces it is read by this norm alone, the stream goes on as it was.
    return Point(module, "in", lambda x: x, lambda _, new: new)
