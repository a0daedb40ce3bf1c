"""What a reader sees of a store at one moment: a snapshot with its tables."""

from __future__ import annotations

import hashlib
import threading
from functools import cached_property

import numpy as np
import torch

from mmxai.store import layout
from mmxai.store.buffers import BufferPool
from mmxai.store.maps import MapCache
from mmxai.store.snapshot import Snapshot
from mmxai.store.table import EncodedSite, Matrix, Table, Verify
from mmxai.types import ROW_COLUMNS, Rows


class View:
    """The tables of one snapshot, made at first use. Loaders keep the view they began with."""

    def __init__(self, snapshot: Snapshot, verify: Verify, older: View | None = None):
        self.snapshot, self.verify = snapshot, verify
        self.plan = snapshot.plan
        self._maps: MapCache = MapCache(f"store {snapshot.root}")
        self.buffers = BufferPool()
        self._tables: dict[str, Table] = {}
        self._lock = threading.Lock()
        if older is not None:
            for path, table in older.opened().items():
                self.table(path).inherit(table)

    @cached_property
    def identity(self) -> str:
        """Names the snapshot: equal exactly where the plan and the committed attempts are equal."""
        hashed = hashlib.blake2b(self.plan.hash.encode(), digest_size=16)
        for part in self.snapshot.parts:
            hashed.update(f"{part}:{self.snapshot.attempt(int(part))};".encode())
        return hashed.hexdigest()

    def table(self, path: str) -> Table:
        """The table of an array of the plan."""
        with self._lock:
            if path not in self._tables:
                self._tables[path] = Table(self.plan.arrays[path], self.snapshot, self.verify, self._maps)
            return self._tables[path]

    def opened(self) -> dict[str, Table]:
        """The tables made so far, by path."""
        with self._lock:
            return dict(self._tables)

    def site_table(self, site: str) -> Matrix:
        """The rows of a site, however it is stored."""
        spec = self.plan.site(site)
        pieces = [self.table(path) for path in spec.paths]
        return EncodedSite(spec, pieces) if spec.encoded else pieces[0]

    def row_table(self, space: str) -> Table:
        return self.table(layout.rows_path(space))

    def num_rows(self, space: str) -> int:
        return int(self.snapshot.rows[space].sum())

    def gather(self, table: Matrix, rows: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Rows of a table as a CPU tensor `[N, width]`, recycled once nobody holds it."""
        stored = table.dtype
        fused = dtype == torch.float32 and stored != torch.int32
        out = self.buffers.empty((len(rows), table.width), torch.float32 if fused else stored)
        table.gather(rows, out)
        return out if dtype is None else out.to(dtype)

    def rows(self, space: str, rows: np.ndarray) -> Rows:
        """Row identities; never recycled, for they are small and long kept."""
        table = self.row_table(space)
        out = torch.empty((len(rows), len(ROW_COLUMNS)), dtype=torch.int32)
        table.gather(rows, out)
        return Rows(out)

    def close(self) -> None:
        """Let go of the maps; from now on every read raises StoreError."""
        self._maps.close()
