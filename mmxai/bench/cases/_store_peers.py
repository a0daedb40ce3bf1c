"""Durable writes and random rows of other formats, in environments of their own (`--peers`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

import mmxai
from mmxai.bench.cases._stores import BATCH, PER_CHUNK, SITE, WIDTH, Shape, data, write_raw, write_store
from mmxai.bench.figures import Figure, interleave, interleave_paths, ratio
from mmxai.bench.floors import bytes_floor, copy_bandwidth
from mmxai.bench.options import Options
from mmxai.bench.peers import running, wanted


def against_peers(folder: Path, shape: Shape, options: Options) -> list[Figure]:
    """`write_vs_<peer>`, the whole array to files and fsynced, and `gather_vs_<peer>`, 4,096 random rows."""
    if not wanted(options, "store"):
        return []
    x, table = data(shape.rows)
    raw, picked = folder / "peers.bin", folder / "peers.rows"
    x.view(torch.int16).numpy().tofile(raw)
    rows = np.random.default_rng(0).integers(0, shape.rows, BATCH)
    rows.tofile(picked)
    write_store(folder / "peers.zarr", x, table, shape.per_part)
    job = {
        "data": str(raw), "rows": str(picked), "folder": str(folder), "width": WIDTH,
        "per_part": shape.per_part, "per_chunk": PER_CHUNK,
    }  # fmt: skip
    figures = []
    with running(options, "store", job) as rivals, mmxai.open_store(folder / "peers.zarr") as store:
        site = store[SITE]
        writes = interleave_paths(
            folder,
            {
                "ours": lambda p: write_store(p, x, table, shape.per_part),
                "raw": lambda p: write_raw(p, x, shape.per_part),
                **{r.name: partial(r.run, "write") for r in rivals.values()},
            },
            options.repeats(5),
        )
        gathers = interleave(
            {
                "ours": lambda: site.gather(rows),
                **{r.name: partial(r.run, "gather") for r in rivals.values()},
            },
            options.repeats(5),
        )
        answer = {"gathered": int(site.gather(rows).view(torch.int16).to(torch.int64).sum())}
        floor = bytes_floor(BATCH * WIDTH * 2, copy_bandwidth())  # one read
        for peer, rival in rivals.items():
            rival.agree(answer)
            ours, theirs, gathered = writes["ours"], writes[peer.name], gathers[peer.name]
            figures += [
                Figure(f"write_vs_{peer.key}", ratio(theirs, ours), None,
                       f"{peer.does}, {theirs}; ours {ours}", f"raw {writes['raw']}"),
                Figure(f"gather_vs_{peer.key}", ratio(gathered, gathers["ours"]), None,
                       f"{BATCH / gathered.median / 1e3:.1f} k rows/s, {gathered}", floor),
            ]  # fmt: skip
    return figures
