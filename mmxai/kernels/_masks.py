"""Checks shared by the ops that count pixels under units' masks."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.cells import CellLabels

FLOATS = (torch.float32, torch.bfloat16)


def matrix(op: str, x: torch.Tensor) -> tuple[int, int]:
    """The shape of `x`, checked."""
    if x.ndim != 2 or x.dtype not in FLOATS or x.device.type not in ("cpu", "cuda"):
        raise ArgumentError(
            f"{op}: x is {x.dtype} of shape {tuple(x.shape)} on {x.device}, expected (T, U) of float32 or "
            "bfloat16 on cpu or cuda"
        )
    return x.shape[0], x.shape[1]


def targets(
    op: str,
    units: int,
    device: torch.device,
    threshold: torch.Tensor,
    counts: torch.Tensor,
    *labels: CellLabels,
) -> None:
    """Raises unless thresholds, counts and labels fit `units` on `device`: kernels follow columns unseen."""
    if threshold.dtype != torch.float32 or threshold.shape != (units,) or threshold.device != device:
        raise ArgumentError(
            f"{op}: threshold is {threshold.dtype} of shape {tuple(threshold.shape)} on {threshold.device}, "
            f"expected float32 of shape ({units},) on {device}"
        )
    if not threshold.is_contiguous():
        raise ArgumentError(f"{op}: threshold is not contiguous, expected it to be")
    if counts.dtype != torch.int64 or counts.ndim != 2 or len(counts) != units or counts.device != device:
        raise ArgumentError(
            f"{op}: counts are {counts.dtype} of shape {tuple(counts.shape)} on {counts.device}, expected "
            f"int64 of shape ({units}, C) on {device}"
        )
    if not counts.is_contiguous():
        raise ArgumentError(
            f"{op}: counts are not contiguous, expected them to be: they are added to in place"
        )
    for cells in labels:
        if cells.columns.device != device:
            raise ArgumentError(f"{op}: labels are on {cells.columns.device}, expected {device}")
        _entries(op, cells)
        if cells.width > counts.shape[1]:
            raise ArgumentError(
                f"{op}: got label {cells.width - 1}, expected numbers below {counts.shape[1]}, the columns "
                "of counts"
            )


def _entries(op: str, cells: CellLabels) -> None:
    if cells.offsets.device.type == "cuda":
        return  # a look at the numbers would wait for the device
    offsets, columns = cells.offsets.numpy(), cells.columns.numpy()
    if offsets[0] != 0 or offsets[-1] != len(columns) or (offsets[1:] < offsets[:-1]).any():
        raise ArgumentError(
            f"{op}: got offsets {offsets[0]} to {offsets[-1]}, expected them to rise from 0 to {len(columns)}"
        )
    if len(columns) and columns.min() < 0:
        raise ArgumentError(f"{op}: got label {columns.min()}, expected numbers from 0 on")
