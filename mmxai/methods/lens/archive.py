"""Everything the lens saw of every row, on disk: a Zarr group that any Zarr reader opens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.errors import ArgumentError

if TYPE_CHECKING:
    from mmxai.methods.lens.passes import Found
    from mmxai.models.unembedding import Unembedding
    from mmxai.types import Rows

_CHUNK = 4096  # rows


class Archive:
    """Arrays `rows` `[N, 8]`, `ids`, `logprobs` `[S, N, k]`, `entropy`, `kl` `[S, N]`, `targets` `[N, T]`,
    `target_logprobs`, `target_ranks` `[S, N, T]`, as in `LensResult`; attributes `states`, `targets`,
    `model`, `tower`. An archive of an earlier run at that place is replaced."""

    def __init__(self, path: str | Path, states: list[str], unembed: Unembedding, targets: list[str]):
        import zarr

        self.path = Path(path)
        if self.path.exists():
            if not self._ours():
                raise ArgumentError(f"archive {self.path}: is there already, expected a new folder")
            shutil.rmtree(self.path)
        self._group = zarr.create_group(self.path)
        self._group.attrs.update(
            {
                "mmxai": "lens",
                "states": states,
                "targets": targets,
                "model": unembed.model,
                "tower": unembed.tower,
            }
        )
        self._rows = 0

    def _ours(self) -> bool:
        import zarr

        try:
            return zarr.open_group(self.path, mode="r").attrs.get("mmxai") == "lens"
        except (OSError, ValueError):
            return False

    def add(self, found: Found, rows: Rows, targets: Any) -> None:
        arrays: dict[str, tuple[np.ndarray, int]] = {
            "rows": (rows.table.numpy(), 0),
            "targets": (targets.numpy(), 0),
        }
        for name in ("ids", "logprobs", "entropy", "kl", "target_logprobs", "target_ranks"):
            if (x := getattr(found, name)) is not None:
                arrays[name] = x.numpy(), 1
        start, stop = self._rows, self._rows + len(rows)
        for name, (x, axis) in arrays.items():
            if 0 in x.shape:
                continue
            if not start:
                shape = tuple(0 if i == axis else n for i, n in enumerate(x.shape))
                chunks = tuple(_CHUNK if i == axis else n for i, n in enumerate(x.shape))
                self._group.create_array(name, shape=shape, chunks=chunks, dtype=x.dtype)
            array: Any = self._group[name]
            array.resize(tuple(stop if i == axis else n for i, n in enumerate(x.shape)))
            array[(slice(None),) * axis + (slice(start, stop),)] = x
        self._rows = stop
