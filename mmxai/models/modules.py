"""`module:<dotted.path>` sites: the output of any submodule of any network, as rows.

How a module's output becomes rows is found by running an example once: `[B, C, H, W]` is a grid of rows of
width C, `[B, T, D]` a sequence, `[B, D]` one row a sample. A sequence as long as a tower's belongs to the
tower's row space, so that its padding is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from mmxai.capture.hooks import Point, eagerly, exclusive
from mmxai.errors import ArgumentError, ModelError, UnknownSiteError
from mmxai.models.names import MODULE
from mmxai.types import ROW_COLUMNS, TOKEN_CODES


@dataclass(frozen=True)
class Output:
    """What a module put out: shape without the batch (None: no floating tensor), and how often."""

    shape: tuple[int, ...] | None
    batch: int
    fires: int


@dataclass(frozen=True, eq=False)
class ModuleSite:
    name: str
    width: int
    space: str
    point: Point


def discover(module: nn.Module, forward: Callable[[], Any]) -> dict[str, Output]:
    """Run the example and note every submodule's output, by dotted path in the module's own order."""
    found: dict[str, Output] = {}
    paths = {id(m): name for name, m in module.named_modules() if name}

    def note(child: nn.Module, args: tuple, output: Any) -> None:
        x = first_tensor(output)
        shape = None if x is None else tuple(x.shape)
        fires = found[paths[id(child)]].fires + 1 if paths[id(child)] in found else 1
        found[paths[id(child)]] = Output(shape and shape[1:], shape[0] if shape else 0, fires)

    handles = []
    with exclusive(module), eagerly(module), torch.no_grad():
        try:
            for name, child in module.named_modules():
                if name:
                    handles.append(child.register_forward_hook(note))
            forward()
        finally:
            for handle in handles:
                handle.remove()
    return {name: found[name] for name, _ in module.named_modules() if name in found}


def first_tensor(output: Any) -> torch.Tensor | None:
    if isinstance(output, tuple) and output:
        output = output[0]
    usable = isinstance(output, torch.Tensor) and output.is_floating_point() and output.ndim > 0
    return output if usable else None


def usable(output: Output, batch: int) -> bool:
    """Whether a module's output can be rows of samples."""
    return (
        output.fires == 1
        and output.shape is not None
        and len(output.shape) in (1, 2, 3)
        and output.batch == batch
    )


def module_site(
    module: nn.Module,
    path: str,
    outputs: Mapping[str, Output],
    batch: int,
    towers: Mapping[str, tuple[str, int]],
) -> ModuleSite:
    """Bind one site. towers: name -> (path of its root, length of the example's sequence).

    Raises ModelError where the output cannot be rows of samples.
    """
    name = MODULE + path
    found = outputs.get(path)
    if found is None:
        raise ModelError(
            f"{name}: did not run on the example, so its width is unknown; call another module's site"
        )
    if found.fires != 1:
        raise ModelError(
            f"{name}: runs {found.fires} times in one forward (used in several places), expected once; "
            f"use the site of a module around it"
        )
    if found.shape is None or len(found.shape) not in (1, 2, 3) or found.batch != batch:
        got = None if found.shape is None else (found.batch, *found.shape)
        raise ModelError(
            f"{name}: got output {got} for a batch of {batch}, expected [{batch}, C, H, W], [{batch}, T, D] "
            f"or [{batch}, D]"
        )
    shape: tuple[int, ...] = found.shape
    grid: tuple[int, ...] = shape
    if len(shape) == 3:
        width, space = shape[0], f"module.{shape[1]}x{shape[2]}"
    elif len(shape) == 1:
        width, space = shape[0], "module.vector"
    else:
        owner = _owner(path, shape[0], towers)
        width, space = shape[1], owner or f"module.{shape[0]}"
        grid = (-1, width) if owner else shape
    read, write = partial(_read, name, grid), partial(_write, len(grid))
    return ModuleSite(name, width, space, Point(module.get_submodule(path), "out", read, write, keep=True))


def _owner(path: str, length: int, towers: Mapping[str, tuple[str, int]]) -> str | None:
    fitting = [t for t, (_, n) in towers.items() if n == length]
    inside = [t for t in fitting if (path + ".").startswith(towers[t][0] + ".")]
    return next(iter(inside or fitting), None)


def _read(name: str, grid: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    shape = tuple(x.shape[1:])
    if len(shape) != len(grid) or any(g not in (-1, s) for g, s in zip(grid, shape, strict=True)):
        raise ArgumentError(
            f"{name}: got output {shape} a sample, expected {grid} as for the example; rows of another grid "
            f"are another row space: wrap the module again with example= of this size"
        )
    if len(grid) == 3:
        return x.flatten(2).transpose(1, 2)
    return x if len(grid) == 2 else x.unsqueeze(1)


def _write(ndim: int, x: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    if ndim == 3:
        return new.transpose(1, 2).reshape(x.shape)
    return new if ndim == 2 else new.squeeze(1)


def rows_of(space: str, batch: int, samples: torch.Tensor | None = None) -> torch.Tensor:
    """Row table int32 `[B, T, 8]` of a `module.` or `<tower>.pooled` space."""
    what = space.rpartition(".")[2]
    _height, width = (int(n) for n in what.split("x")) if "x" in what else (0, 0)
    count = length_of(space)
    table = torch.full((count, len(ROW_COLUMNS)), -1, dtype=torch.int32)
    if "x" in what:
        cells = torch.arange(count)
        columns = {"position": cells, "y": cells // width, "x": cells % width}
        columns["token_type"] = torch.full((count,), TOKEN_CODES["patch"])
    else:
        columns = {} if what in ("vector", "pooled") else {"position": torch.arange(count)}
    for column, values in columns.items():
        table[:, ROW_COLUMNS.index(column)] = values.to(torch.int32)
    table = table.repeat(batch, 1, 1)
    table[..., 0] = (torch.arange(batch, dtype=torch.int32) if samples is None else samples)[:, None]
    return table


def length_of(space: str) -> int:
    """Rows a sample has in a `module.` or `.pooled` space."""
    what = space.rpartition(".")[2]
    if what in ("vector", "pooled"):
        return 1
    try:
        height, _, width = what.partition("x")
        return int(height) * int(width or 1)
    except ValueError:
        raise UnknownSiteError(
            f"no row space {space!r}; expected a tower, <tower>.pooled or module.<shape>"
        ) from None
