"""A store beside the same content in memory, for tests that compare reading with indexing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmxai.stats import StatsAccumulator
from mmxai.store import Plan, SiteSpec, StoreWriter
from mmxai.types import TOKEN_CODES, Rows


@dataclass
class Content:
    """Logical rows of a store: tensors by site, row tables by space."""

    path: Path
    plan: Plan
    acts: dict[str, torch.Tensor]
    rows: dict[str, torch.Tensor]


def make_content(
    path: Path,
    *,
    samples: int = 40,
    per_part: int = 7,
    most_rows: int = 6,
    dtypes: tuple[str, ...] = ("bfloat16", "float16", "float32"),
    widths: tuple[int, ...] = (8, 64, 5),
    order: str = "permuted",
    seed: int = 0,
    parts: set[int] | None = None,
    specials: bool = False,
    big_rows: int = 0,
) -> Content:
    """Write (the given `parts` of) a store: one site a dtype in space "vision", and pooled "vision.embeds".

    Samples have 0 to `most_rows` rows (exactly `big_rows` where given): a cls, patches, and a pad at the end.
    """
    sites = tuple(
        SiteSpec(f"vision.{i}.x", width, dtype, "vision")
        for i, (dtype, width) in enumerate(zip(dtypes, widths, strict=True))
    )
    sites = (*sites, SiteSpec("vision.embeds", 3, "float32", "vision.pooled"))
    plan = Plan(
        samples=samples,
        samples_per_part=per_part,
        order=order,
        seed=seed,
        sites=sites,
        rows_per_sample={"vision": big_rows or most_rows, "vision.pooled": 1},
        identity={"made_by": "memory_model"},
    )
    writer_parts = range(plan.parts or 0) if parts is None else sorted(parts)
    acts: dict[str, list[torch.Tensor]] = {s.name: [] for s in sites}
    rows: dict[str, list[torch.Tensor]] = {space: [] for space in plan.spaces}
    with StoreWriter.open(path, plan, durable=False) as writer:
        for part in writer_parts:
            _write_part(writer, part, acts, rows, most_rows, big_rows, seed, specials)
    empty = {s.name: torch.empty(0, s.width, dtype=getattr(torch, s.dtype)) for s in sites}
    return Content(
        path,
        plan,
        {name: torch.cat([empty[name], *x]) for name, x in acts.items()},
        {space: torch.cat([torch.empty(0, 8, dtype=torch.int32), *x]) for space, x in rows.items()},
    )


def _write_part(writer, part, acts, rows, most_rows, big_rows, seed, specials):
    plan = writer.plan
    tables = {space: [] for space in plan.spaces}
    indices = plan.samples_of(part).tolist()
    for sample in indices:
        rng = np.random.default_rng([seed, sample])
        count = big_rows or int(rng.integers(0, most_rows + 1))
        kind = torch.full((count,), TOKEN_CODES["patch"], dtype=torch.int32)
        kind[:1] = TOKEN_CODES["cls"]
        if count > 2:
            kind[-1] = TOKEN_CODES["pad"]
        here = Rows.make(sample=torch.full((count,), sample), position=torch.arange(count), token_type=kind)
        tables["vision"].append(here.table)
        tables["vision.pooled"].append(Rows.make(sample=torch.tensor([sample])).table)
    stats = {}
    with writer.part(part) as attempt:
        for space in plan.spaces:
            table = torch.cat(tables[space])
            generator = torch.Generator().manual_seed(1000 * seed + part)
            here = {}
            for spec in plan.sites_of(space):
                x = torch.randn(len(table), spec.width, generator=generator)
                if specials:
                    x[torch.rand(x.shape, generator=generator) < 0.1] = torch.nan
                    x[torch.rand(x.shape, generator=generator) < 0.1] = -torch.inf
                here[spec.name] = x.to(getattr(torch, spec.dtype))
                accumulator = StatsAccumulator(spec.width, k=3)
                accumulator.update(here[spec.name], 0)
                stats |= {f"{spec.name}/{k}": v for k, v in accumulator.state(part).items()}
                acts[spec.name].append(here[spec.name])
            attempt.write(space, table, here)
            rows[space].append(table)
        objects = [
            {
                "sample": s,
                "key": f"key{s}",
                "hash": f"{s:032x}",
                "text": f"text {s}",
                "columns": {"label": s % 3},
            }
            for s in indices
        ]
        assert attempt.commit(objects, stats, {})


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal dtype, shape and bits."""
    kinds = {2: torch.int16, 4: torch.int32}
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(
            a.contiguous().view(kinds[a.dtype.itemsize]), b.contiguous().view(kinds[b.dtype.itemsize])
        )
    )
