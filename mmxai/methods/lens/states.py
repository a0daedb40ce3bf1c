"""Which states the lens looks at: sites as wide as the stream; single heads of `z`, and values `v`, through
the output matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mmxai.errors import ArgumentError, RowSpaceError
from mmxai.models.linear import Norm, after_of, matrix_of

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.models.parts import Dims
    from mmxai.models.unembedding import Unembedding

STREAM = ("resid_pre", "resid_mid", "resid_post")
KINDS = (*STREAM, "attn_out", "mlp_out", "embed", "ln_final", "embeds")


class Translator(Protocol):
    """Takes states of a site to the last block's output before the final norm sees them (a tuned lens)."""

    def to_final(self, site: str, x: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True, eq=False)
class State:
    """One row of a lens' table: a site, or its columns from `start` on by `matrix` float32 `[D, n]`."""

    name: str
    site: str
    block: int | None
    kind: str
    start: int = 0
    matrix: torch.Tensor | None = None

    def rows(self, acts: torch.Tensor) -> torch.Tensor:
        """Rows `[N, W]` of the site as rows `[N, D]` of the stream."""
        if self.matrix is None:
            return acts
        own = acts[:, self.start : self.start + self.matrix.shape[1]]
        return own.to(self.matrix.device, self.matrix.dtype) @ self.matrix.T


def states_of(
    sites: Sequence[str], widths: Mapping[str, int], unembed: Unembedding, model: Model | None
) -> list[State]:
    """The states of `sites`, in their order; `z` becomes a state a head. Raises ArgumentError, RowSpaceError.

    widths: of every site that there is. model: needed for heads, whose output matrices are its own.
    """
    found: list[State] = []
    for site in sites:
        tower, block, kind = parts(site)
        if tower != unembed.tower:
            raise RowSpaceError(
                f"lens: got {site}, expected sites of the {unembed.tower} tower, whose end the lens is"
            )
        if kind == "z":
            found += heads_of(model, site, block)
        elif kind == "v":
            found.append(values_of(model, site, block))
        elif kind in KINDS and widths[site] == (unembed.width if kind != "embeds" else _joint(unembed)):
            found.append(State(site, site, block, kind))
        else:
            raise ArgumentError(
                f"lens: got {site}, {widths[site]} wide, expected states of the residual stream or what is "
                f"added to it ({', '.join(KINDS[:6])}), z for single heads, v, or ln_final"
            )
    return found


def heads_of(model: Model | None, site: str, block: int | None) -> list[State]:
    """A state a query head: what it alone adds to the stream, less the output matrix's bias."""
    matrix, dims = _output(model, site)
    size = dims.head_dim
    return [
        State(f"{site}.{h}", site, block, "z", h * size, matrix[:, h * size : (h + 1) * size].contiguous())
        for h in range(dims.heads)
    ]


def values_of(model: Model | None, site: str, block: int | None) -> State:
    """What a token would be given that attends to this row alone: its values, to every query head, through
    the output matrix less the bias (of CLIP's last block: Zhou et al. 2022, arXiv:2112.01071)."""
    matrix, dims = _output(model, site)
    groups = matrix.unflatten(1, (dims.kv_heads, -1, dims.head_dim))
    return State(site, site, block, "v", 0, groups.sum(2).flatten(1).contiguous())


def _output(model: Model | None, site: str) -> tuple[torch.Tensor, Dims]:
    """float32 `[D, heads * head_dim]` of a block's attention, and its tower's sizes.

    A norm behind that matrix (Gemma 2 and 3) divides by a number of the whole sum; the final norm drops any
    factor of a row, so its gain is all that matters.
    """
    if model is None:
        raise ArgumentError(
            f"lens: got {site} and no model, expected the model: its output matrix takes heads to the stream"
        )
    tower = model.towers[site.partition(".")[0]]
    block = site.rpartition(".")[0]
    inner = tower.sites[f"{block}.z"].point.module
    outer = tower.sites[f"{block}.attn_out"].point.module
    matrix, _ = matrix_of(inner, f"{block}.z")
    if not any(module is inner for module in outer.modules()):
        after = after_of(outer, tower.dims.model, site)
        if isinstance(after, Norm) and after.centred:
            matrix = matrix - matrix.mean(0)
        matrix = (after.gain if isinstance(after, Norm) else after)[:, None] * matrix
    return matrix, tower.dims


def parts(site: str) -> tuple[str, int | None, str]:
    """Tower, block (None of a site of the whole tower) and kind of a site's name."""
    tower, _, rest = site.partition(".")
    number, _, kind = rest.partition(".")
    return (tower, int(number), kind) if number.isdecimal() else (tower, None, rest)


def _joint(unembed: Unembedding) -> int:
    return unembed.weight.shape[1] if unembed.project is not None else -1


class Stack:
    """States of a batch, normed and one below the other, as the unembedding reads them."""

    def __init__(self, states: Sequence[State], unembed: Unembedding, translator: Translator | None = None):
        self.states, self.unembed, self.translator = list(states), unembed, translator
        self.sites = list(dict.fromkeys(s.site for s in states))

    def __call__(self, acts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """`[S * N, D']` of sites `[N, W]`."""
        return torch.cat([self._one(state, acts[state.site]) for state in self.states])

    def _one(self, state: State, acts: Any) -> torch.Tensor:
        x = state.rows(acts)
        if self.translator is not None and state.kind in STREAM:
            x = self.translator.to_final(state.site, x)
        return self.unembed.norm(x, state.kind)
