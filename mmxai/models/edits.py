"""Edits of activations: functions `[B, T, D] -> [B, T, D]` (or `[N, D]` alike) that treat every row alike.

They serve `model.run(edit={site: ...})` and `model.intervene({site: ...})`, at every site of that width. All
return a new tensor, compute in float32 at least whatever the model's dtype, and are differentiable. `units`
are columns of the site: neurons of `mlp_post`, dimensions of the residual stream; for heads of `q k v z` see
`head_columns`. `only` confines any edit to some of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmxai.capture.hooks import Edit
from mmxai.errors import ArgumentError

Units = Sequence[int] | torch.Tensor


def add(vector: torch.Tensor, by: float = 1.0) -> Edit:
    """x + by * vector, vector `[D]`: steering (Turner et al. 2023, arXiv:2308.10248)."""
    held = _held(vector, "add", 1)
    return _wide("add", vector.shape[-1], lambda x: x + by * held(x))


def project_out(directions: torch.Tensor, centre: torch.Tensor | None = None) -> Edit:
    """x without its part in the span of `directions` (`[D]` or `[K, D]`, of any length, dependent or not).

    centre: float `[D]`; of x - centre then (a mean, so that rows are not moved to where none ever were).
    """
    basis = _held(_orthonormal(directions, "project_out"), "project_out", 2)
    middle = None if centre is None else _held(centre, "project_out: centre", 1)

    def edit(x: torch.Tensor) -> torch.Tensor:
        off = x if middle is None else x - middle(x)
        return x - (off @ basis(x).T) @ basis(x)

    return _wide("project_out", directions.shape[-1], edit)


def affine(matrix: torch.Tensor, centre: torch.Tensor) -> Edit:
    """matrix @ (x - centre) + centre, `[D, D]` and `[D]`: LEACE's eraser (Belrose et al. 2023,
    arXiv:2306.03819) and any other linear map of rows."""
    held, middle = _held(matrix, "affine", 2), _held(centre, "affine: centre", 1)
    if matrix.shape != (centre.shape[0], centre.shape[0]):
        raise ArgumentError(
            f"affine: got a matrix {tuple(matrix.shape)} and a centre {tuple(centre.shape)}, expected "
            "(D, D) and (D,)"
        )
    return _wide("affine", len(centre), lambda x: (x - middle(x)) @ held(x).T + middle(x))


def clamp(vector: torch.Tensor, low: float | None = None, high: float | None = None) -> Edit:
    """x moved along `vector` `[D]` until its coordinate x . vector / |vector| lies in [low, high].

    low == high sets the coordinate. None: no bound on that side.
    """
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        raise ArgumentError(f"clamp: got low={low}, high={high}, expected one of them at least, low <= high")
    _held(vector, "clamp", 1)
    _orthonormal(vector, "clamp")
    held = _Held(torch.nn.functional.normalize(vector.detach().double(), dim=0))

    def edit(x: torch.Tensor) -> torch.Tensor:
        at = (x @ held(x)).unsqueeze(-1)
        return x + (at.clamp(low, high) - at) * held(x)

    return _wide("clamp", len(vector), edit)


def scale(units: Units, by: float) -> Edit:
    """Columns `units` times `by`."""
    return _columns("scale", units, lambda x: x * by)


def zero(units: Units) -> Edit:
    """Columns `units` set to 0."""
    return _columns("zero", units, torch.zeros_like)


def mean(units: Units, values: torch.Tensor) -> Edit:
    """Columns `units` set to `values` `[len(units)]`: their means over data, in most uses."""
    held = _held(values, "mean", 1)
    if len(values) != len(units):
        raise ArgumentError(
            f"mean: got {len(values)} values for {len(units)} units, expected as many; of all columns' means "
            "take means[units]"
        )
    return _columns("mean", units, lambda x: held(x).expand_as(x))


def resample(units: Units, source: torch.Tensor, seed: int = 0) -> Edit:
    """Columns `units` of every row set to those of a row drawn from `source` `[N, len(units)]`.

    A row keeps what the drawn row's units had together. Draws go on from call to call; the seed makes the
    whole sequence. (Resampling ablation: Chan et al. 2022, "Causal scrubbing".)
    """
    held = _held(source, "resample", 2)
    if source.shape[1] != len(units) or not len(source):
        raise ArgumentError(
            f"resample: got a source {tuple(source.shape)} for {len(units)} units, expected "
            f"(rows, {len(units)})"
        )
    generator = torch.Generator().manual_seed(seed)

    def drawn(x: torch.Tensor) -> torch.Tensor:
        rows = torch.randint(len(source), x.shape[:-1], generator=generator)
        return held(x)[rows.to(x.device)]

    return _columns("resample", units, drawn)


def only(mask: torch.Tensor, edit: Edit) -> Edit:
    """`edit` where `mask` (bool `[B, T]`, or `[T]` for all samples alike) is true; other rows stay."""
    if mask.dtype != torch.bool or mask.ndim not in (1, 2):
        raise ArgumentError(f"only: got a mask {mask.dtype} {tuple(mask.shape)}, expected bool [B, T] or [T]")

    def edited(x: torch.Tensor) -> torch.Tensor:
        if mask.shape != x.shape[-1 - mask.ndim : -1]:
            raise ArgumentError(
                f"only: got rows {tuple(x.shape[:-1])} for a mask {tuple(mask.shape)}, expected the shape of "
                "the batch; in model.generate rows are of the prompt first and then of one token"
            )
        return torch.where(mask.to(x.device).unsqueeze(-1), edit(x).to(x.dtype), x)

    return edited


def head_columns(heads: Sequence[int], number: int, width: int) -> list[int]:
    """The columns of some of the `number` heads that lie side by side in a site of `width` columns."""
    if number < 1 or width % number or any(not 0 <= h < number for h in heads):
        raise ArgumentError(
            f"head_columns: got heads {list(heads)} of {number} in {width} columns, expected numbers "
            f"from 0 to {number - 1}; model.heads_of(site) says how many there are"
        )
    each = width // number
    return [column for head in heads for column in range(head * each, (head + 1) * each)]


def _wide(name: str, width: int, function: Edit) -> Edit:
    """An edit of rows of one width: computed in float32 or wider, given back in the rows' dtype."""

    def edit(x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != width:
            raise ArgumentError(f"{name}: got rows of width {x.shape[-1]}, expected {width}, its vector's")
        return function(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    return edit


def _columns(name: str, units: Units, value: Edit) -> Edit:
    """An edit that sets some columns to what `value` makes of them."""
    given = torch.as_tensor(units).reshape(-1)
    index = given.long()
    # A mask would pass for the numbers 0 and 1.
    whole = not len(given) or not (given.dtype == torch.bool or given.is_floating_point())
    if not whole or bool((index < 0).any()) or len(index.unique()) < len(index):
        raise ArgumentError(
            f"{name}: got units {given.tolist()}, expected different whole numbers from 0 (of a mask: "
            "mask.nonzero().flatten())"
        )
    held = _Held(index)

    def edit(x: torch.Tensor) -> torch.Tensor:
        if len(index) and int(index.max()) >= x.shape[-1]:
            raise ArgumentError(
                f"{name}: got unit {int(index.max())} of rows of width {x.shape[-1]}, expected less"
            )
        there = held.on(x.device)
        chosen = x.index_select(-1, there).to(torch.promote_types(x.dtype, torch.float32))
        return x.index_copy(-1, there, value(chosen).to(x.dtype))

    return edit


def _orthonormal(directions: torch.Tensor, name: str) -> torch.Tensor:
    """A basis of the span of `[D]` or `[K, D]`: float64 `[rank, D]`."""
    if directions.ndim not in (1, 2) or not directions.numel() or not torch.isfinite(directions).all():
        raise ArgumentError(
            f"{name}: got directions {tuple(directions.shape)} (finite: "
            f"{bool(directions.isfinite().all())}), expected finite [D] or [K, D]"
        )
    given = directions.detach().double().cpu().reshape(-1, directions.shape[-1])
    _, values, basis = torch.linalg.svd(given, full_matrices=False)
    # float32 directions that depend on each other do so to float32's precision.
    kept = values > values[0] * max(given.shape) * torch.finfo(torch.float32).eps
    if not values[0]:
        raise ArgumentError(f"{name}: got directions that are all zero, expected some direction")
    return basis[kept]


class _Held:
    """A constant where the activations are; moved once a device and dtype, not once a token."""

    def __init__(self, value: torch.Tensor):
        self._value = self._there = value

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if (self._there.device, self._there.dtype) != (x.device, x.dtype):
            self._there = self._value.to(x.device, x.dtype)
        return self._there

    def on(self, device: torch.device) -> torch.Tensor:
        if self._there.device != device:
            self._there = self._value.to(device)
        return self._there


def _held(value: torch.Tensor, name: str, ndim: int) -> _Held:
    if value.ndim != ndim or not value.is_floating_point():
        raise ArgumentError(
            f"{name}: got a tensor {value.dtype} {tuple(value.shape)}, expected floats of {ndim} "
            f"dimension{'s' * (ndim > 1)}"
        )
    return _Held(value)
