"""A tower at its read-out token as a list of additions and norms, from a loaded model's own modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmxai.errors import ArgumentError, ModelError
from mmxai.models.linear import Norm, after_of, matrix_of, norm_of

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.models.adapter import BoundTower


@dataclass(frozen=True)
class Add:
    """What a site adds to the stream: norm(matrix @ site + bias), mostly without the norm.

    heads: how many parts of the site are told apart; 0 of an MLP.
    """

    site: str
    block: int
    heads: int
    matrix: torch.Tensor
    bias: torch.Tensor | None
    norm: Norm | None


@dataclass(frozen=True)
class Through:
    """The stream itself through a norm."""

    name: str
    norm: Norm


@dataclass(frozen=True)
class Network:
    """starts: the sites whose rows are the stream's first terms, the second as what is more than the first.
    steps: in forward order. matrix float32 `[out, D]`, None for the stream behind the last step itself; bias
    `[out]`. cap: the model shows cap * tanh(output / cap), None: the output.
    """

    starts: tuple[str, ...]
    steps: tuple[Add | Through, ...]
    matrix: torch.Tensor | None
    bias: torch.Tensor | None
    cap: float | None

    @property
    def sites(self) -> list[str]:
        return [*self.starts, *(s.site for s in self.steps if isinstance(s, Add))]


def network_of(model: Model, tower: str) -> Network:
    """Raises ArgumentError where the model has no such tower or nothing to read out of it; ModelError where a
    module is not what its adapter says."""
    bound = model.towers.get(tower)
    spec = None if bound is None else bound.spec.readout
    if bound is None or spec is None:
        raise ArgumentError(
            f"path: got tower {tower!r} of {model.name}, expected one of "
            f"{list(model.towers)} with an output that is linear behind its norm"
        )
    if spec.token == "first" and bound.spec.input == "pixel_values" and bound.spec.prefix[:1] != ("cls",):
        raise ArgumentError(
            f"path: {model.name} has no class token (it reads {bound.spec.prefix or 'patches'}), expected "
            "one; an average over patches is not a read-out token"
        )
    width, steps = bound.dims.model, list[Add | Through]()
    if spec.start_norm:
        start = model.module.get_submodule(bound.path).get_submodule(spec.start_norm)
        if not isinstance(start, nn.Identity):
            steps.append(Through(spec.start_norm, norm_of(start, width, f"{tower}.{spec.start_norm}")))
    for block in range(bound.dims.blocks):
        steps += _block(model, bound, block)
    if f"{tower}.ln_final" in bound.sites:
        norm = norm_of(bound.sites[f"{tower}.ln_final"].point.module, width, f"{tower}.ln_final")
        steps.append(Through("ln_final", norm))
    starts = [f"{tower}.embed"] if spec.start_norm or spec.positions else []
    starts += [] if spec.start_norm else [f"{tower}.0.resid_pre"]
    matrix, bias = _output(model, bound, spec.matrix)
    cap = getattr(model.config, "final_logit_softcapping", None) if matrix is not None else None
    return Network(tuple(starts), tuple(steps), matrix, bias, cap)


def _block(model: Model, tower: BoundTower, block: int) -> list[Add | Through]:
    site = lambda kind: f"{tower.name}.{block}.{kind}"  # noqa: E731
    post = model.adapter is not None and model.adapter.residual == "post-norm"
    steps: list[Add | Through] = []
    for reads, adds, behind, heads in (
        ("z", "attn_out", "resid_mid", tower.dims.heads),
        ("mlp_post", "mlp_out", "", 0),
    ):
        steps.append(_add(tower, block, site(reads), site(adds), heads))
        if post:
            # BERT's block ends in its second norm; the adapter's anatomy says where.
            module = (
                tower.sites[site(behind)].point.module
                if behind
                else tower.sites[site("resid_post")].point.module.get_submodule(tower.spec.anatomy.norm2)
            )
            name = behind or "resid_post"
            steps.append(Through(f"{block}.{name}", norm_of(module, tower.dims.model, site(name))))
    return steps


def _add(tower: BoundTower, block: int, reads: str, adds: str, heads: int) -> Add:
    inner, outer = tower.sites[reads].point.module, tower.sites[adds].point.module
    matrix, bias = matrix_of(inner, reads)
    if any(module is inner for module in outer.modules()):
        return Add(reads, block, heads, matrix, bias, None)
    after = after_of(outer, tower.dims.model, adds)
    if isinstance(after, Norm):
        return Add(reads, block, heads, matrix, bias, after)
    return Add(reads, block, heads, after[:, None] * matrix, None if bias is None else after * bias, None)


def _output(model: Model, tower: BoundTower, path: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(matrix `[out, D]`, bias) that a tower's output is made with; None where the loaded object has none."""
    base: Any = model.module if path.startswith("/") else model.module.get_submodule(tower.path)
    name = path.removeprefix("/")
    found = getattr(base, name, None) if name else None
    if found is None or isinstance(found, nn.Identity):
        return None, None
    if isinstance(found, nn.Parameter):
        return found.detach().float().T, None
    if not isinstance(found, nn.Module):
        raise ModelError(f"{tower.name}: {name} is a {type(found).__name__}, expected a linear map")
    return matrix_of(found, f"{tower.name}: {name}")
