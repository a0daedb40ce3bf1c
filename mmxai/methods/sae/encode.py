"""Encode a whole store: its rows become the codes of an SAE, so that every method takes latents as its units.

The new store has the old one's samples, parts, row table and row space, and one site of width M stored as
`topk`. It is made part by part: it resumes, and several workers may make it at once.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.kernels.capture import MOST
from mmxai.kernels.codes import Codes
from mmxai.methods.sae.nulls import fingerprint
from mmxai.methods.sae.rows import check_sites, selection_of
from mmxai.results import Result, axes
from mmxai.share import share
from mmxai.stats import StatsAccumulator
from mmxai.store import Plan, SiteSpec, StoreWriter
from mmxai.store.commit import PLAN
from mmxai.store.derived import parts_to_make, rows_of_part, samples_of_part
from mmxai.store.select import RowFilter, select_rows
from mmxai.types import ROW_COLUMNS

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.methods.sae.model import SAE
    from mmxai.store.reader import Store

BLOCK_BYTES = 16 << 20  # of dense codes at a time
_PROBE_ROWS = 16384
_SAMPLE = ROW_COLUMNS.index("sample")
_FED = ("data", "model", "inputs", "selection")  # of the harvest: who runs the model again needs them


@dataclass(frozen=True)
class EncodeConfig:
    tokens: str | None = None
    """Token types to encode, comma-separated. Default: those that the SAE was trained on."""
    k: int | None = None
    """Codes kept a row. Default: the SAE's own k; of an SAE without a fixed number, a quarter more than the
    most of any of 16,384 rows looked at. Rows with more lose their smallest; the report says how many."""
    name: str | None = None
    """The site's name in the new store. Default: the SAE's (first) site with '.sae' after it."""
    exemplars: int = 16
    """Top rows a latent, one a sample at most, in the new store's statistics."""
    part_of: str | None = None
    """This worker's share, 'i/n' (0 <= i < n). Default: RANK and WORLD_SIZE, or SLURM_ARRAY_TASK_ID."""

    def __post_init__(self) -> None:
        if (self.k is not None and self.k < 1) or not 1 <= self.exemplars <= MOST:
            raise ArgumentError(
                f"encode: got k={self.k}, exemplars={self.exemplars}, expected k >= 1 and exemplars between "
                f"1 and {MOST}"
            )


@dataclass(repr=False)
class EncodeReport(Result):
    """What one worker did.

    rows: encoded by it; active: their latents above 0; cut: rows that had more of them than `k`; activation,
    dropped: sums of all values, and of those that were cut. parts: written by it; before: found there.
    """

    store: str
    site: str
    k: int
    rows: int = 0
    active: int = 0
    cut: int = 0
    activation: float = 0.0
    dropped: float = 0.0
    parts: int = 0
    before: int = 0
    total: int | None = None

    def summary(self) -> str:
        lines = [
            f"store  {self.store}, site {self.site}, {self.k} a row",
            f"parts  {self.parts:,} written, {self.before:,} were there before, of {self.total or '?'}",
            f"rows   {self.rows:,}, {self.active / max(1, self.rows):.1f} latents active in each",
        ]
        if self.cut:
            lost = self.dropped / self.activation
            lines.append(
                f"cut    {self.cut:,} rows had more than {self.k} active and lost {lost:.2%} of all "
                "activation; give a larger k to keep it"
            )
        return "\n".join(lines)

    def to_pandas(self) -> pandas.DataFrame:
        """One row."""
        import pandas

        return pandas.DataFrame([asdict(self)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rows kept whole and rows cut."""
        ax = axes(ax)
        ax.bar(["whole", "cut"], [self.rows - self.cut, self.cut])
        ax.set(ylabel="rows")
        return ax


def encode_store(
    sae: SAE,
    store: Store,
    out: str | Path,
    config: EncodeConfig | None = None,
    *,
    progress: bool | None = None,
    **options: Any,
) -> EncodeReport:
    """Write the codes of every row of `store` to a new store `out`; go on with it where it is there.

    options: fields of `EncodeConfig`, over those of `config`. Statistics of the latents, with exemplars a
    sample, are in `mmxai.open_store(out).stats`; `site.entries(rows)` gives codes without making them dense.
    NonFiniteError where an activation is NaN or inf: the part is not written. SelectionError where no row is
    of the token types.
    """
    config = replace(config or EncodeConfig(), **options)
    spec = sae.spec
    tokens = config.tokens or selection_of(spec, None)["tokens"]
    keep = RowFilter.parse(tokens, None, (0.8, 0.1, 0.1))
    rank, world = share(config.part_of)
    space = check_sites(spec, store, out=False)
    select_rows(store.view, space, keep)  # raises where none is left
    plan = _plan(sae, store, config, keep, Path(out))
    site = plan.sites[0]
    with StoreWriter.open(out, plan) as writer:
        before = writer.committed()
        report = EncodeReport(str(out), site.name, site.k or 0, before=len(before), total=plan.parts)
        bar = tqdm(
            total=len(store.view.snapshot.parts), initial=len(before), unit=" parts", desc="sae encode",
            disable=not (sys.stderr.isatty() if progress is None else progress),
        )  # fmt: skip
        with bar:
            for part in parts_to_make(writer, store, rank, world):
                _encode_part(sae, store, writer, part, keep, config, report)
                bar.update()
        if store.view.snapshot.end is not None:
            writer.finish(store.view.snapshot.end)
    return report


def _plan(sae: SAE, store: Store, config: EncodeConfig, keep: RowFilter, out: Path) -> Plan:
    spec, source = sae.spec, store.plan
    space = store[spec.sites_in[0]].space
    name = config.name or f"{spec.sites_in[0]}.sae"
    of = {
        "weights": fingerprint(sae),
        "arch": spec.arch,
        "latents": spec.latents,
        "sites": list(spec.sites_in),
    }
    identity = {
        "source": source.hash,
        "sae": of,
        "tokens": None if keep.tokens is None else list(keep.tokens),
        "statistics": {"k": config.exemplars, "exemplars": "sample"},
    } | {name: source.identity[name] for name in _FED if name in source.identity}
    k = config.k or (spec.k if spec.arch == "topk" else None)
    if k is None and (out / PLAN).is_file():
        begun = {s.name: s for s in Plan.load(out / PLAN).sites}
        k = begun[name].k if name in begun else None  # found by the worker that began it, for all
    k = k or _most(sae, store, keep)
    return Plan(
        samples=source.samples,
        samples_per_part=source.samples_per_part,
        order=source.order,
        seed=source.seed,
        sites=(SiteSpec(name, spec.latents, "topk", space, min(k, spec.latents)),),
        rows_per_sample={space: source.rows_per_sample[space]},
        identity=identity,
        notes={"source": Path(store.path).name, "sae": spec.to_json(), "of": dict(source.notes)},
    )


def _encode_part(
    sae: SAE,
    store: Store,
    writer: StoreWriter,
    part: int,
    keep: RowFilter,
    config: EncodeConfig,
    report: EncodeReport,
) -> None:
    spec, site = sae.spec, writer.plan.sites[0]
    rows, who = rows_of_part(store, site.space, part, keep)
    stats = StatsAccumulator(spec.latents, config.exemplars, per_sample=True)
    step = max(1, BLOCK_BYTES // (4 * spec.latents))
    with writer.part(part) as attempt:
        for start in range(0, len(rows), step):
            block, owner = rows[start : start + step], who[start : start + step]
            x = torch.cat([store[s].gather(block, torch.float32) for s in spec.sites_in], 1)
            if not x.isfinite().all():
                row = int(block[int((~x.isfinite().all(1)).nonzero()[0])])
                raise NonFiniteError(
                    f"encode: got NaN or inf in row {row} (part {part}) of {', '.join(spec.sites_in)}, "
                    "expected finite rows; harvest again, or leave that token type out with tokens="
                )
            codes = sae.encode(x)
            dense = codes.dense()
            _count(codes, dense, site.k or 0, report)
            dense = dense.to("cpu", torch.bfloat16)
            stats.update(dense, attempt.num_rows(site.space), owner[:, _SAMPLE].long())
            attempt.write(site.space, owner, {site.name: dense})
        lines = samples_of_part(store, part)
        states = {f"{site.name}/{k}": v for k, v in stats.state(part).items()}
        if attempt.commit(lines, states, {"command": "sae encode", "torch": torch.__version__}):
            report.parts += 1
            report.rows += len(rows)


def _count(codes: Codes, dense: torch.Tensor, k: int, report: EncodeReport) -> None:
    active = _active(codes)
    report.active += int(active.sum())
    report.activation += float(codes.values.double().sum())
    over = (active > k).nonzero()[:, 0]
    report.cut += len(over)
    if len(over):
        rows = dense[over].double()
        report.dropped += float(rows.sum() - rows.topk(k).values.sum())


def _active(codes: Codes) -> torch.Tensor:
    """How many latents are above 0 in each row, int64 `[B]`."""
    return torch.bincount(codes.row_of()[codes.values > 0], minlength=codes.rows)


def _most(sae: SAE, store: Store, keep: RowFilter) -> int:
    """A quarter more than the most active latents of some rows, rounded up to a multiple of 8."""
    spec = sae.spec
    most, seen = 1, 0
    loader = store.batches(
        2048, sites=list(spec.sites_in), shuffle=True, dtype=torch.float32, tokens=keep.tokens
    )
    with loader:
        for batch in loader:
            codes = sae.encode(sae.inputs(batch))
            most, seen = max(most, int(_active(codes).max())), seen + batch.num_rows
            if seen >= _PROBE_ROWS:
                break
    return min(spec.latents, 8 * math.ceil(1.25 * most / 8))
