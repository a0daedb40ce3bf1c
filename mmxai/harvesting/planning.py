"""From a model, a data set and options to a plan: which rows exist, in which parts, how many bytes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.capture.engine import Extractor
from mmxai.capture.select import Selection
from mmxai.data import Source
from mmxai.errors import ArgumentError, DiskFullError, SelectionError, UnreadableSampleError
from mmxai.harvesting.config import HarvestConfig
from mmxai.harvesting.feed import PROBED, Peeked, read, readable
from mmxai.harvesting.report import size
from mmxai.kernels.capture import MOST
from mmxai.models.generate import appended
from mmxai.stats import state_bytes
from mmxai.store import Plan, SiteSpec, read_commits
from mmxai.store.profiles import largest_of, outlier_columns
from mmxai.types import ROW_COLUMNS

if TYPE_CHECKING:
    from mmxai.data import Sample
    from mmxai.models import Model
    from mmxai.models.inputs import Encoded

ROW_BYTES = 4 * len(ROW_COLUMNS)
# A part is what a crash can cost and what a file holds: large enough that ten thousand parts make a large
# store, small enough that it is a minute's work.
_PART_BYTES, _LARGEST_PART_BYTES, _USUAL_PARTS = 256 << 20, 4 << 30, 1000


@dataclass(frozen=True)
class Estimate:
    """What a harvest would write; printed by `--dry-run`.

    exact: whether every probed sample had the same number of rows, so that these are counts and no
    estimates. samples None: the length of the data is not known, and the rest is for one part. committed:
    parts that are in the store already. differences: of the plan of the store that is there.
    """

    store: str
    samples: int | None
    parts: int | None
    samples_per_part: int
    rows: dict[str, int]
    nbytes: int
    files: int
    free: int
    exact: bool
    committed: int
    differences: list[str]

    def __str__(self) -> str:
        about = "" if self.exact else "about "
        scope = "" if self.samples is not None else " (one part; the length of the data is not known)"
        spaces = ", ".join(f"{space} {about}{rows:,}" for space, rows in self.rows.items())
        samples = "unknown" if self.samples is None else f"{self.samples:,}"
        parts = "unknown" if self.parts is None else f"{self.parts:,}"
        return "\n".join(
            [
                f"store      {self.store}",
                f"samples    {samples} in {parts} parts of {self.samples_per_part:,}",
                f"rows       {spaces}{scope}",
                f"bytes      {about}{size(self.nbytes)}{scope}",
                f"files      {self.files:,}{scope}",
                f"free disk  {size(self.free)}",
                *(
                    [f"committed  {self.committed:,} parts; {size(self.needed)} to write"]
                    if self.committed
                    else []
                ),
                *(f"problem    {problem}" for problem in self.problems),
            ]
        )

    @property
    def needed(self) -> int:
        """Bytes still to be written."""
        return int(self.nbytes * (max(0.0, 1 - self.committed / self.parts) if self.parts else 1.0))

    @property
    def problems(self) -> list[str]:
        """Why the harvest would be refused."""
        out = list(self.differences)
        if self.needed > self.free:
            out.append(
                f"got {size(self.free)} of free disk, expected {size(self.needed)} for the parts not yet "
                f"written; select fewer rows (--tokens, --per-sample, --pool), fewer sites, or another disk"
            )
        return out

    def check_free(self) -> None:
        """Refuse a harvest that cannot fit, before it starts."""
        if self.needed > self.free:
            raise DiskFullError(f"{self.store}: {self.problems[-1]}")


def make_plan(
    model: Model,
    source: Source | Peeked,
    towers: Sequence[str],
    sites: Sequence[str],
    selection: Selection,
    config: HarvestConfig,
    stored: Plan | None,
    batch_size: int,
) -> tuple[Plan, Estimate]:
    """The plan of a harvest and what it amounts to.

    `stored`: the plan of the store that is there, whose samples per part hold unless the caller asks
    otherwise. Probes a few samples to learn how many rows a sample has.
    """
    spaces = {site: model.space_of(site) for site in sites}
    kept = probe(model, source, towers, dict.fromkeys(spaces.values()), selection, config.generate or 0)
    mean = {space: float(np.mean(counts)) for space, counts in kept.items()}
    specs = site_specs(model, source, towers, sites, selection, config, stored)
    per_sample = sum(mean[spec.space] * spec.row_bytes for spec in specs)
    samples = len(source) if isinstance(source, Source) else None
    per_part = config.samples_per_part or (stored.samples_per_part if stored else None)
    statistics = sum(_state_bytes(model.width_of(site), config) for site in sites)
    per_part = per_part or _samples_per_part(samples, per_sample, statistics, batch_size)
    plan = Plan(
        samples=samples,
        samples_per_part=per_part,
        order=config.order if samples is not None else "sequential",
        seed=config.seed,
        sites=specs,
        rows_per_sample={space: selection.capacity(model.rows_per_sample(space)) for space in kept},
        identity=_statistics(config, stored)
        | {
            # A folder that was renamed holds the same model.
            "model": {k: v for k, v in model.identity.items() if k != "name"},
            "data": source.identity,
            "inputs": {k: v for k, v in model.inputs_identity().items() if k in towers or not model.towers},
            "selection": selection.identity,
        }
        | ({"generate": {"tokens": config.generate, "decoding": "greedy"}} if config.generate else {}),
        notes={
            "model": model.name,
            "batch_size": batch_size,
            "token_types": {s: sorted(_token_types(model, s, config)) for s in kept},
            "heads": {s: n for s in sites if (n := model.heads_of(s))},
        },
    )
    counted = per_part if samples is None else samples
    parts = plan.parts or 1
    home = Path(config.store).absolute()
    existing = next(p for p in (home, *home.parents) if p.exists())
    estimate = Estimate(
        store=config.store,
        samples=samples,
        parts=plan.parts,
        samples_per_part=per_part,
        rows={space: round(m * counted) for space, m in mean.items()},
        nbytes=round((per_sample + ROW_BYTES * sum(mean.values())) * counted) + parts * statistics,
        files=parts * (sum(len(spec.pieces) for spec in specs) + len(kept) + 3),
        free=shutil.disk_usage(existing).free,
        exact=not config.generate and all(len(set(counts)) == 1 for counts in kept.values()),
        committed=0 if stored is None else len(read_commits(home, stored)),
        differences=[] if stored is None else stored.differences(plan),
    )
    return plan, estimate


def _statistics(config: HarvestConfig, stored: Plan | None) -> dict[str, Any]:
    """What the plan records of statistics other than the usual: states of different kinds do not merge."""
    if not 1 <= config.stats_k <= MOST or config.exemplars not in ("row", "sample"):
        raise ArgumentError(
            f"statistics: got stats_k={config.stats_k}, exemplars={config.exemplars!r}, expected "
            f"1 <= stats_k <= {MOST} and 'row' or 'sample'"
        )
    kind = {"k": config.stats_k, "bottom": config.bottom, "exemplars": config.exemplars}
    usual = {"k": 16, "bottom": False, "exemplars": "row"}
    recorded = stored is not None and "statistics" in stored.identity
    return {"statistics": kind} if config.stats and (kind != usual or recorded) else {}


def _state_bytes(width: int, config: HarvestConfig) -> int:
    if not config.stats:
        return 0
    return state_bytes(width, config.stats_k, bottom=config.bottom, per_sample=config.exemplars == "sample")


def _samples_per_part(samples: int | None, bytes_per_sample: float, statistics: int, batch_size: int) -> int:
    """Whole batches, for a batch never crosses a part."""
    total = 0.0 if samples is None else samples * bytes_per_sample
    least = max(_PART_BYTES, 64 * statistics)  # written once a part, and lists that begin empty cost most
    target = min(max(total / _USUAL_PARTS, least), _LARGEST_PART_BYTES)
    return batch_size * max(1, int(target / max(bytes_per_sample * batch_size, 1)))


def _token_types(model: Model, space: str, config: HarvestConfig) -> set[str]:
    said = {"generated"} if config.generate and space == "text" else set()
    return model.token_types(space) | said


def probe(
    model: Model,
    source: Source | Peeked,
    towers: Sequence[str],
    spaces: dict[str, Any],
    selection: Selection,
    generate: int = 0,
) -> dict[str, list[int]]:
    """Row space -> rows kept of each of a few samples. Raises SelectionError where none is.

    generate: tokens that each text will have more, at most.
    """
    kept: dict[str, list[int]] = {space: [] for space in spaces}
    for item in encoded_head(model, source, towers):
        rows = model.collate([item]).rows
        if generate:
            rows["text"] = appended(rows["text"], [torch.zeros(generate, dtype=torch.int64)])
        for space in kept:
            count = int(selection.keep(rows[space]).sum())
            kept[space].append(min(count, 1) if selection.averages else count)
    for space, counts in kept.items():
        if not any(counts):
            types = sorted(model.token_types(space)) or "no token types"
            raise SelectionError(
                f"the selection ({selection}) keeps no row of {space!r} in {len(counts)} samples looked "
                f"at, whose rows are of {types}; select others, or leave those sites out"
            )
    return kept


def encoded_head(model: Model, source: Source | Peeked, towers: Sequence[str]) -> list[Encoded]:
    """The few samples that are looked at before a harvest, as the model takes them."""
    encoded = []
    unreadable = None
    for sample in _probed(source):
        try:
            # An unreadable one is passed over here: the harvest itself stops at it, or skips and records it.
            encoded.append(model.encode(readable(sample), towers))
        except UnreadableSampleError as error:
            unreadable = error
    if not encoded and unreadable is not None:
        raise unreadable
    return encoded


def site_specs(
    model: Model,
    source: Source | Peeked,
    towers: Sequence[str],
    sites: Sequence[str],
    selection: Selection,
    config: HarvestConfig,
    stored: Plan | None,
) -> tuple[SiteSpec, ...]:
    """How each site is stored. Outlier columns of int8 are those of the store that is there, else found by
    running the model on a few samples, one at a time, so that they depend on the data alone."""

    def spec(site: str, outliers: tuple[int, ...] | None) -> SiteSpec:
        space = model.space_of(site)
        return SiteSpec(site, model.width_of(site), config.store_dtype, space, config.topk, outliers)

    if config.store_dtype != "int8":
        return tuple(spec(site, None) for site in sites)
    if stored is not None and {s.name for s in stored.sites} == set(sites):
        return tuple(spec(site, stored.site(site).outliers or ()) for site in sites)
    extract = Extractor(model, sites, selection, torch.bfloat16)
    largest = {site: torch.zeros(model.width_of(site)) for site in sites}
    for item in encoded_head(model, source, towers):
        inputs = model.collate([item])
        for packed in extract(model.continued(inputs, config.generate)[0] if config.generate else inputs):
            packed.wait()
            for site, x in packed.acts.items():
                largest[site] = torch.maximum(largest[site], largest_of(x))
            extract.buffers.give_back(packed)
    return tuple(spec(site, outlier_columns(largest[site])) for site in sites)


def _probed(source: Source | Peeked) -> list[Sample | UnreadableSampleError]:
    if isinstance(source, Peeked):
        return source.head
    picked = np.unique(np.linspace(0, len(source) - 1, min(PROBED, len(source))).astype(int))
    return [read(source, int(index)) for index in picked]
