"""A deterministic harvest without a model: every byte is a function of the sample alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from mmxai.stats import StatsAccumulator
from mmxai.store import Plan, SiteSpec, StoreWriter
from mmxai.types import Rows

FLOAT_SITES = (
    SiteSpec("vision.0.resid_post", 24, "bfloat16", "vision"),
    SiteSpec("vision.0.mlp_post", 40, "float16", "vision"),
    SiteSpec("vision.embeds", 7, "float32", "vision.pooled"),
)
SITES = (
    *FLOAT_SITES,
    SiteSpec("vision.0.z", 16, "int8", "vision", outliers=(3, 9)),
    SiteSpec("vision.0.codes", 33, "topk", "vision", k=4),
)


def make_plan(
    samples: int | None = 60, per_part: int = 5, sites: tuple[SiteSpec, ...] = SITES, **identity: object
) -> Plan:
    return Plan(
        samples=samples,
        samples_per_part=per_part,
        order="sequential" if samples is None else "permuted",
        seed=7,
        sites=sites,
        rows_per_sample={"vision": 9, "vision.pooled": 1},
        identity=identity or {"model": {"id": "fake"}},
    )


def activations(sample: int, twist: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(row tables by space, tensors by site) of a sample; `twist` flips the last bit of every value."""
    rng = np.random.default_rng([sample, 1])
    n = int(rng.integers(0, 10))
    tables, acts = {}, {}
    for space, count in (("vision", n), ("vision.pooled", 1)):
        tables[space] = Rows.make(
            sample=torch.full((count,), sample, dtype=torch.int32), position=torch.arange(count)
        ).table
    for site in SITES:
        count = len(tables[site.space])
        ints, dtype = (np.uint32, torch.int32) if site.row_dtype == "float32" else (np.uint16, torch.int16)
        bits = rng.normal(size=(count, site.width)).astype(np.float32)
        stored = torch.from_numpy(bits).to(getattr(torch, site.row_dtype)).contiguous()
        flipped = stored.view(dtype).numpy().view(ints) ^ ints(twist)
        acts[site.name] = torch.from_numpy(flipped.view(np.int32 if ints is np.uint32 else np.int16)).view(
            getattr(torch, site.row_dtype)
        )
    return tables, acts


def sample_object(sample: int) -> dict[str, object]:
    digest = hashlib.blake2b(str(sample).encode(), digest_size=16).hexdigest()
    return {
        "sample": sample,
        "key": f"picture {sample}.png",
        "hash": digest,
        "columns": {"label": sample % 3},
    }


def write_part(writer: StoreWriter, part: int, twist: int = 0) -> bool:
    plan = writer.plan
    with writer.part(part) as attempt:
        stats = {s.name: StatsAccumulator(s.width, k=2) for s in plan.sites}
        objects = []
        for sample in plan.samples_of(part).tolist():
            tables, acts = activations(sample, twist)
            for space in plan.spaces:
                here = {s.name: acts[s.name] for s in plan.sites_of(space)}
                for name, x in here.items():
                    stats[name].update(x, attempt.num_rows(space))
                attempt.write(space, tables[space], here)
            objects.append(sample_object(sample))
        states = {f"{site}/{k}": v for site, acc in stats.items() for k, v in acc.state(part).items()}
        return attempt.commit(objects, states, {"twist": twist})


def harvest(path: Path, plan: Plan, rank: int = 0, world: int = 1, twist: int = 0) -> None:
    with StoreWriter.open(path, plan) as writer:
        for part in writer.todo(rank, world):
            write_part(writer, part, twist)


def data_files(path: Path) -> dict[str, bytes]:
    """Everything in a store that must not depend on who made it, when, or how often it died."""
    out = {}
    for file in sorted(path.rglob("*")):
        key = str(file.relative_to(path))
        if file.is_file() and not key.startswith(("mmxai/commits", "mmxai/lock", "mmxai/claims")):
            out[key] = file.read_bytes()
    return out
