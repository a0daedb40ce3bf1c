"""Opening a store for reading: sites, row tables, samples and statistics of one snapshot."""

from __future__ import annotations

import errno
import html
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, get_args

import torch

from mmxai.errors import ArgumentError, RowSpaceError, UnknownSiteError
from mmxai.store.indexing import resolve, row_numbers
from mmxai.store.loader import Loader, make_loader
from mmxai.store.plan import Plan
from mmxai.store.rows import RowTable
from mmxai.store.samples import SampleTable
from mmxai.store.site_stats import StatsTable
from mmxai.store.snapshot import read_commits
from mmxai.store.table import DTYPES, Verify
from mmxai.store.view import View

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class Parts(NamedTuple):
    """How far a store is. `total` is None while the length of its data is unknown."""

    committed: int
    total: int | None


class Site:
    """The activations of one site: a matrix `[rows, width]` of logical rows, in the stored dtype.

    `site[5]`, `site[10:20]`, `site[[3, 1]]`, `site[mask]`, `site[10:20, :64]` give CPU tensors of the
    caller's own (their memory is used again once nobody holds it). A site stored as int8 or topk (`storage`
    says how) is decoded as it is read, to bfloat16 or float32.
    """

    def __init__(self, store: Store, name: str):
        spec = store.plan.site(name)
        self._store = store
        self.name, self.space, self.width = name, spec.space, spec.width
        self.dtype = DTYPES[spec.row_dtype]
        self.storage = spec.storage
        self._spec = spec

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.width

    @property
    def nbytes(self) -> int:
        """Bytes of the rows as they are stored."""
        return len(self) * self._spec.row_bytes

    @property
    def rows(self) -> RowTable:
        """The row table of the site's space."""
        return self._store.rows[self.space]

    def __len__(self) -> int:
        return self._store.view.num_rows(self.space)

    def __getitem__(self, index: Any) -> torch.Tensor:
        columns: Any = slice(None)
        if isinstance(index, tuple):
            if len(index) != 2:
                raise ArgumentError(f"{self.name}: got {len(index)} indices, expected rows or rows, columns")
            index, columns = index
        view = self._store.view
        rows, single = resolve(index, view.num_rows(self.space), self.name)
        out = view.gather(view.site_table(self.name), rows)
        return out[0][columns] if single else out[:, columns]

    def gather(self, rows: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Logical `rows` (integers `[N]`, any order, repeats allowed) as `[N, width]`; `dtype` converts."""
        view = self._store.view
        numbers = row_numbers(rows, view.num_rows(self.space), self.name)
        return view.gather(view.site_table(self.name), numbers, dtype)

    def entries(self, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a site stored as topk, what it holds of `rows`: values bfloat16 and columns int64, `[N, k]`.

        Largest magnitude first. For rows too wide to be decoded (codes of a large dictionary).
        """
        if self._spec.dtype != "topk":
            raise ArgumentError(f"{self.name}: is stored as {self.storage}, expected a site stored as topk")
        view = self._store.view
        numbers = row_numbers(rows, view.num_rows(self.space), self.name)
        values, columns = (view.gather(piece, numbers) for piece in view.site_table(self.name).pieces)
        return values, columns.to(torch.int64)

    def batches(self, batch_size: int, **options: Any) -> Loader:
        """`Store.batches` for this site alone; `batch.x` is its tensor."""
        return self._store.batches(batch_size, sites=[self.name], **options)

    def __repr__(self) -> str:
        return f"Site({self.name!r}, {len(self):,} x {self.width} {self.storage}, space {self.space!r})"


class Store(Mapping[str, Site]):
    """A store open for reading: site name -> `Site`. A context manager; safe to use from several threads.

    It shows the parts that were committed when it was opened; `refresh()` looks again.
    """

    def __init__(self, path: Path, view: View):
        self.path, self.view = path, view
        self.rows: Mapping[str, RowTable] = {s: RowTable(self._current, s) for s in self.plan.spaces}
        self.samples = SampleTable(self._current)
        self.stats = StatsTable(self._current)
        self._sites = {s.name: Site(self, s.name) for s in self.plan.sites}

    def _current(self) -> View:
        return self.view

    @property
    def plan(self) -> Plan:
        return self.view.plan

    @property
    def sites(self) -> dict[str, int]:
        """Site name -> width."""
        return {s.name: s.width for s in self.plan.sites}

    @property
    def parts(self) -> Parts:
        return Parts(len(self.view.snapshot), self.view.snapshot.total_parts)

    @property
    def damaged(self) -> dict[int, str]:
        """Parts whose commit record cannot be read, and why. Their rows are in no table."""
        return dict(self.view.snapshot.damaged)

    def __getitem__(self, site: str) -> Site:
        if site in self._sites:
            return self._sites[site]
        from difflib import get_close_matches

        near = get_close_matches(str(site), list(self._sites), 3, 0.4) or list(self._sites)[:3]
        raise UnknownSiteError(
            f"store {self.path}: got site {site!r}, which is not in the store; nearest: {near}"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, site: object) -> bool:
        return site in self._sites

    def batches(self, batch_size: int, *, sites: Sequence[str] | None = None, **options: Any) -> Loader:
        """Batches of `batch_size` rows, aligned over `sites` (default: all), which are of one row space.

        The options are those of `mmxai.store.loader.make_loader`: shuffle, seed, epochs, device, dtype,
        tokens, split, splits, rank, world, drop_last, window, prefetch, rows.
        """
        names = list(self._sites if sites is None else sites)
        spaces = {self[name].space for name in names}
        if len(spaces) != 1:
            raise RowSpaceError(
                f"batches: got sites {names} of row spaces {sorted(spaces)}, expected sites of one space; "
                "their rows do not correspond"
            )
        return make_loader(self.view, names, spaces.pop(), batch_size, **options)

    def refresh(self) -> Parts:
        """Show the parts committed by now; tensors and loaders made before keep what they had."""
        snapshot = read_commits(self.path, self.plan)
        _warn_damaged(self.path, snapshot.damaged)
        self.view = View(snapshot, self.view.verify, older=self.view)
        return self.parts

    def close(self) -> None:
        """Release the maps. Tensors already read stay valid; reading more raises StoreError."""
        self.view.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _summary(self) -> str:
        done, total = self.parts
        size = sum(site.nbytes for site in self.values())
        text = f"{done} parts, open to growth" if total is None else f"{done} of {total} parts"
        text += f" ({len(self.damaged)} damaged)" if self.damaged else ""
        return f"{text}, {len(self.samples):,} samples, {_bytes(size)}"

    def _listing(self) -> list[tuple[str, str, str, str]]:
        return [(s.name, f"{len(s):,} x {s.width}", s.storage, s.space) for s in self.values()]

    def __repr__(self) -> str:
        wide = [max(len(line[i]) for line in self._listing()) for i in range(3)]
        lines = [
            f"  {name:<{wide[0]}}  {shape:>{wide[1]}}  {dtype:<{wide[2]}}  {space}"
            for name, shape, dtype, space in self._listing()
        ]
        return "\n".join([f"Store({str(self.path)!r}: {self._summary()})", *lines])

    def _repr_html_(self) -> str:
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in line) + "</tr>" for line in self._listing()
        )
        head = "".join(f"<th>{c}</th>" for c in ("site", "rows x width", "stored as", "space"))
        return (
            f"<b>Store</b> {html.escape(str(self.path))}<br>{html.escape(self._summary())}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>"
        )


def open_store(path: str | Path, *, verify: Verify = "first-touch") -> Store:
    """Open the store at `path` for reading; needs neither the model nor the data set.

    verify: when bytes are compared with their checksums. "first-touch": a chunk (about 1 MiB) when one of
        its rows is first read; "always": at every read; "never". Damage raises CorruptPartError where it
        is met, and everything undamaged reads.

    What a crash left half published is completed where the directory may be written, else read as it is.
    """
    if verify not in get_args(Verify):
        raise ArgumentError(f"open_store: got verify={verify!r}, expected one of {get_args(Verify)}")
    path = Path(path)
    snapshot = read_commits(path)
    try:
        snapshot.roll_forward()
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
    _warn_damaged(path, snapshot.damaged)
    return Store(path, View(snapshot, verify))


def _warn_damaged(path: Path, damaged: Mapping[int, str]) -> None:
    if damaged:
        warnings.warn(
            f"{path}: the records of parts {sorted(damaged)} are damaged, their rows are left out; "
            f"run `mmxai verify {path}`",
            stacklevel=3,
        )


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
