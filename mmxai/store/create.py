"""`create_store`: the public writer for tools that already hold tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmxai.errors import ArgumentError, StorageOverflowError, StoreError, StoreExistsError, StoreInUseError
from mmxai.kernels.pack import pack
from mmxai.stats import StatsAccumulator
from mmxai.store import sealed
from mmxai.store.commit import PLAN
from mmxai.store.part import PartWriter
from mmxai.store.plan import Plan
from mmxai.store.profiles import largest_of, outlier_columns
from mmxai.store.snapshot import load_plan, read_commits
from mmxai.store.spec import SiteSpec
from mmxai.store.writer import StoreWriter
from mmxai.types import ROW_COLUMNS, Rows

SAMPLE_FIELDS = ("sample", "key", "hash", "text", "size", "tiles", "columns", "skipped")
_SAMPLE = ROW_COLUMNS.index("sample")


def create_store(
    path: str | Path,
    sites: Mapping[str, int] | Mapping[str, Mapping[str, int]],
    *,
    dtype: str | Mapping[str, str] = "bfloat16",
    topk: int | None = None,
    outliers: Mapping[str, Sequence[int]] | None = None,
    space: str | Mapping[str, str] = "rows",
    append: bool = False,
    samples_per_part: int = 1024,
    rows_per_sample: int | Mapping[str, int] | None = None,
    statistics: bool = True,
    identity: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    durable: bool = True,
) -> StoreAppender:
    """Make a store, or with `append=True` go on with one, and return its writer (a context manager).

    `sites`: name -> width, all in the row space `space` (or `space` maps site -> space); or, for several
    spaces, space -> {name: width}. `rows_per_sample`: the most rows one sample will have (a space); None
    takes it from the first `write`, rounded up to a power of two where samples differ.

    `dtype` (of all, or site -> dtype): "bfloat16", "float16", "float32"; "int8", about half of bfloat16, with
    a scale a row; or "topk", the `topk` values of largest magnitude of each row. Both read as bfloat16.
    `outliers`: int8 site -> ascending columns kept apart in bfloat16 (a few of very large values would spoil
    the others' precision); a site left out takes those that `profiles.outlier_columns` finds in the first
    `write`, which should then be a fair sample.
    """
    specs = tuple(_specs(sites, dtype, topk, outliers or {}, space))
    if topk is not None and all(s.dtype != "topk" for s in specs):
        raise ArgumentError(f"create_store: got topk={topk}, expected a site of dtype topk with it")
    if strange := sorted(set(outliers or {}) - {s.name for s in specs}):
        raise ArgumentError(f"create_store: got outliers of {', '.join(strange)}, expected sites it makes")
    return StoreAppender(
        Path(path), specs, append=append, samples_per_part=samples_per_part, rows_per_sample=rows_per_sample,
        statistics=statistics, identity=identity or {}, notes=notes or {}, durable=durable,
    )  # fmt: skip


class StoreAppender:
    """Appends samples and their activations to a store, committing part by part. Made by `create_store`.

    Left without an error, the `with` block commits what remains; left by an error, it keeps what is
    committed: `committed_samples` then says where to go on with `append=True`.
    """

    def __init__(
        self,
        path: Path,
        sites: tuple[SiteSpec, ...],
        *,
        append: bool,
        samples_per_part: int,
        rows_per_sample: int | Mapping[str, int] | None,
        statistics: bool,
        identity: Mapping[str, Any],
        notes: Mapping[str, Any],
        durable: bool,
    ):
        self.path = path
        self.committed_samples = 0
        """Samples that are durable."""
        self._sites = sites
        self._spaces = tuple(dict.fromkeys(s.space for s in sites))
        self._statistics, self._durable = statistics, durable
        self._identity, self._notes = identity, notes
        self._samples_per_part = samples_per_part
        self._store: StoreWriter | None = None
        self._part: PartWriter | None = None
        self._next_part = 0
        self._most: dict[str, int] | None = None
        self._pending: list[dict[str, Any]] = []
        self._stats: dict[str, StatsAccumulator] = {}
        if append and (path / PLAN).exists():
            self._resume()
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreExistsError(
                f"{path}: already exists, expected nothing there; give another path, or append=True to go on"
            )
        if self._store is None and rows_per_sample is not None:
            most = rows_per_sample
            self._most = dict(most) if isinstance(most, Mapping) else dict.fromkeys(self._spaces, most)
            if all(s.decided for s in sites):
                self._create(self._most)

    @property
    def num_samples(self) -> int:
        """Samples written so far, the durable ones and those of the part in the making."""
        return self.committed_samples + len(self._pending)

    def write(
        self,
        samples: Sequence[str | int | Mapping[str, Any]],
        acts: Mapping[str, torch.Tensor],
        rows: Rows | Mapping[str, Rows] | None = None,
    ) -> None:
        """Append samples and all their rows, at every site.

        `samples`: a key each (text or number), or an object of FORMAT.md, "Samples" (`key`, `text`, `size`,
        `hash`...; unknown fields are kept under `columns`). `acts`: site -> float tensor `[len(samples),
        D]`, or `[len(samples), T, D]`, or `[N, D]` with `rows`, whose column `sample` then is an index into
        `samples`. Values are rounded to the storage dtype; one that would become inf refuses the whole call
        (StorageOverflowError).
        """
        if set(acts) != {s.name for s in self._sites}:
            raise ArgumentError(
                f"write: got sites {sorted(acts)}, expected {sorted(s.name for s in self._sites)}"
            )
        objects = [self._sample(s, self.num_samples + i) for i, s in enumerate(samples)]
        tables = {space: self._table(space, len(objects), acts, rows) for space in self._spaces}
        stored = {s.name: self._convert(s, acts[s.name], len(tables[s.space])) for s in self._sites}
        ends = {}
        for space, table in tables.items():
            index = table[:, _SAMPLE]
            if len(table) and bool((index[1:] < index[:-1]).any()):
                order = torch.argsort(index, stable=True)
                tables[space] = table = table[order]
                stored |= {s.name: stored[s.name][order] for s in self._sites if s.space == space}
            counts = np.bincount(table[:, _SAMPLE].numpy(), minlength=len(objects))
            ends[space] = np.concatenate([[0], np.cumsum(counts)])
            table[:, _SAMPLE] += self.num_samples
        if self._store is None:
            self._sites = tuple(_decide(s, stored[s.name]) for s in self._sites)
        store = self._store or self._create(
            self._most or {space: _most_rows(np.diff(e)) for space, e in ends.items()}
        )
        self._append(store, objects, tables, stored, ends)

    def flush(self) -> None:
        """Commit what has been written; the part stays shorter than the others."""
        if self._part is None:
            return
        stats = {
            f"{site}/{k}": v
            for site, acc in self._stats.items()
            for k, v in acc.state(self._next_part).items()
        }
        if not self._part.commit(self._pending, stats, {"writer": "create_store"}):
            raise StoreInUseError(
                f"{self.path}: somebody else has appended part {self._next_part} meanwhile; "
                "open it again with append=True and go on from committed_samples"
            )
        self.committed_samples += len(self._pending)
        self._next_part += 1
        self._part, self._pending, self._stats = None, [], {}

    def close(self) -> None:
        """Commit what remains and let go of the store."""
        if self._store is None and not (self.path / PLAN).exists():
            self._sites = tuple(_decide(s, torch.empty(0, s.width)) for s in self._sites)
            self._create(self._most or dict.fromkeys(self._spaces, 1))
        try:
            self.flush()
        finally:
            self._release()

    def __enter__(self) -> StoreAppender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self._release()

    def _release(self) -> None:
        if self._store is not None:
            self._store.close()

    def _create(self, rows_per_sample: dict[str, int]) -> StoreWriter:
        plan = Plan(
            samples=None,
            samples_per_part=self._samples_per_part,
            order="sequential",
            seed=0,
            sites=self._sites,
            rows_per_sample=rows_per_sample,
            identity=self._identity,
            notes=self._notes,
        )
        return self._hold(StoreWriter.open(self.path, plan, resume=False, durable=self._durable))

    def _resume(self) -> None:
        plan = load_plan(self.path)
        stored = {s.name: s for s in plan.sites}
        asked = {
            s.name: s if s.decided or s.name not in stored else replace(s, outliers=stored[s.name].outliers)
            for s in self._sites
        }
        if plan.samples is not None or stored != asked:
            raise StoreError(
                f"{self.path}: cannot append to {sorted(asked.values(), key=str)}: the store has "
                f"{sorted(stored.values(), key=str)} and {plan.samples or 'no'} planned samples; "
                "give the same sites, or another path"
            )
        self._sites = plan.sites
        self._hold(StoreWriter.open(self.path, plan, durable=self._durable))

    def _hold(self, store: StoreWriter) -> StoreWriter:
        self._store = store
        try:
            if not store.claim_append():
                raise StoreInUseError(f"{self.path}: another process is appending to it; wait for it to end")
            snapshot = read_commits(self.path, store.plan)
            if snapshot.end is not None or snapshot.parts.tolist() != list(range(len(snapshot))):
                raise StoreError(
                    f"{self.path}: cannot append: its end is marked, or parts are missing among "
                    f"{len(snapshot)} committed ones; finish the run that made it, or give another path"
                )
            self._next_part = len(snapshot)
            self.committed_samples = int(snapshot.first[-1] + snapshot.samples[-1]) if len(snapshot) else 0
        except BaseException:
            store.close()
            raise
        return store

    def _sample(self, sample: str | int | Mapping[str, Any], index: int) -> dict[str, Any]:
        given: dict[str, Any] = dict(sample) if isinstance(sample, Mapping) else {"key": str(sample)}
        if given.get("sample", index) != index:
            raise ArgumentError(
                f"write: got sample {given['sample']}, expected {index}, or leave `sample` out"
            )
        extra = {k: v for k, v in given.items() if k not in SAMPLE_FIELDS}
        columns: dict[str, Any] = {**dict(given.get("columns") or {}), **extra}
        out = {k: v for k, v in given.items() if k in SAMPLE_FIELDS}
        out |= {"sample": index, "key": str(given.get("key", index))}
        if columns:
            out["columns"] = columns
        content = sealed.canonical({k: v for k, v in out.items() if k != "sample"})
        out.setdefault("hash", hashlib.blake2b(content, digest_size=16).hexdigest())
        return out

    def _table(
        self, space: str, count: int, acts: Mapping[str, torch.Tensor], rows: Rows | Mapping[str, Rows] | None
    ) -> torch.Tensor:
        """The row table of one call, int32 `[N, 8]`; `sample` counts from 0."""
        shapes = {s.name: tuple(acts[s.name].shape) for s in self._sites if s.space == space}
        heads = {shape[:-1] for shape in shapes.values()}
        given = rows.get(space) if isinstance(rows, Mapping) else rows
        if len(heads) != 1 or len(next(iter(heads))) not in (1, 2):
            raise ArgumentError(f"write: got shapes {shapes}, expected all (N, D) or (samples, T, D)")
        head = heads.pop()
        total = int(np.prod(head))
        if given is not None:
            index = given.sample
            if len(given) != total or (total and (int(index.min()) < 0 or int(index.max()) >= count)):
                raise ArgumentError(
                    f"write: got {len(given)} rows for {total} activations of {space!r}, expected as many, "
                    f"their `sample` an index into the {count} samples of this call"
                )
            return given.table.clone()
        if head[0] != count:
            raise ArgumentError(
                f"write: got {head[0]} rows in {space!r} for {count} samples, expected as many; "
                "pass rows=Rows.make(sample=...) when samples have different numbers of rows"
            )
        per = total // count if count else 0
        made = Rows.make(sample=torch.arange(count, dtype=torch.int32).repeat_interleave(per))
        if len(head) == 2:
            made.table[:, ROW_COLUMNS.index("position")] = torch.arange(per, dtype=torch.int32).repeat(count)
        return made.table

    def _convert(self, site: SiteSpec, x: torch.Tensor, count: int) -> torch.Tensor:
        if not x.is_floating_point() or x.shape[-1] != site.width:
            raise ArgumentError(
                f"write to {site.name}: got {x.dtype} {tuple(x.shape)}, expected floats of width {site.width}"
            )
        dtype = getattr(torch, site.row_dtype)
        x = x.detach().reshape(1, count, site.width).cpu()
        if x.dtype == dtype and x.is_contiguous():
            return x[0]
        wide = x.to(torch.float32) if x.dtype == torch.float64 else x
        out = torch.empty(count, site.width, dtype=dtype)
        lost = pack(wide, None, out)
        if wide is not x:
            lost += int((torch.isfinite(x) & ~torch.isfinite(wide)).sum())
        if lost:
            raise StorageOverflowError(
                f"write to {site.name}: got {lost} finite values too large for {site.row_dtype}, "
                "expected none; store bfloat16 or float32"
            )
        return out

    def _append(
        self,
        store: StoreWriter,
        samples: list[dict[str, Any]],
        tables: dict[str, torch.Tensor],
        stored: dict[str, torch.Tensor],
        ends: dict[str, np.ndarray],
    ) -> None:
        plan = store.plan
        for space, end in ends.items():
            most = int(np.diff(end).max(initial=0))
            if most > plan.capacity(space):
                raise ArgumentError(
                    f"write: got a sample of {most} rows in {space!r}, a part has room for "
                    f"{plan.capacity(space)}; give create_store a larger rows_per_sample"
                )
        at = 0
        while at < len(samples):
            if self._part is None:
                self._part = store.part(self._next_part)
                if self._statistics:
                    self._stats = {s.name: StatsAccumulator(s.width) for s in self._sites}
            stop = min(len(samples), at + plan.samples_per_part - len(self._pending))
            for space, end in ends.items():
                room = plan.capacity(space) - self._part.num_rows(space)
                stop = min(stop, int(np.searchsorted(end, end[at] + room, side="right")) - 1)
            slices = {space: slice(int(end[at]), int(end[stop])) for space, end in ends.items()}
            self._write(self._part, plan, tables, stored, slices)
            self._pending += samples[at:stop]
            at = stop
            # Full in samples, or in rows for the next one.
            if at < len(samples) or len(self._pending) == plan.samples_per_part:
                self.flush()

    def _write(
        self,
        part: PartWriter,
        plan: Plan,
        tables: dict[str, torch.Tensor],
        stored: dict[str, torch.Tensor],
        slices: dict[str, slice],
    ) -> None:
        for space, rows in slices.items():
            first = part.num_rows(space)
            acts = {s.name: stored[s.name][rows] for s in plan.sites_of(space)}
            part.write(space, tables[space][rows], acts)
            if self._statistics:
                for name, x in acts.items():
                    self._stats[name].update(x, first)


def _specs(
    sites: Mapping[str, int] | Mapping[str, Mapping[str, int]],
    dtype: str | Mapping[str, str],
    topk: int | None,
    outliers: Mapping[str, Sequence[int]],
    space: str | Mapping[str, str],
) -> Iterator[SiteSpec]:
    def spec(site: str, width: int, its_space: str) -> SiteSpec:
        kind = dtype if isinstance(dtype, str) else dtype[site]
        kept = tuple(outliers[site]) if site in outliers else None
        return SiteSpec(site, width, kind, its_space, topk if kind == "topk" else None, kept)

    for name, value in sites.items():
        if isinstance(value, Mapping):
            yield from (spec(site, width, name) for site, width in value.items())
        else:
            yield spec(name, value, space if isinstance(space, str) else space[name])


def _decide(site: SiteSpec, x: torch.Tensor) -> SiteSpec:
    """The site with its outlier columns, found in the first rows where nobody named them."""
    return site if site.decided else replace(site, outliers=outlier_columns(largest_of(x)))


def _most_rows(counts: np.ndarray) -> int:
    """Room a sample for rows as seen in the first call: exact where all agree, else a power of two."""
    most = int(counts.max(initial=1)) or 1
    return most if (counts == most).all() else 1 << (most - 1).bit_length()
