"""Storage profiles against bfloat16: bytes, random rows, writing, and what is lost.

Rows are synthetic, of two kinds that layers have: a residual stream (Gaussian columns of unequal size, a few
a hundred times larger, as in transformers), and a wide MLP layer after its activation (mostly near zero).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmxai.bench.figures import Figure, Timing, interleave, interleave_paths, ratio
from mmxai.bench.floors import bytes_floor, copy_bandwidth
from mmxai.bench.options import Options
from mmxai.store import Store, create_store, open_store

TESTS = ("tests/store/test_profiles.py", "tests/kernels/test_gather_encoded.py")
GPU = False

RESIDUAL, WIDE = 768, 3072
K = 256
BATCH = 4_096
OUTLIERS = (7, 133, 600)


def run(options: Options) -> list[Figure]:
    rows = 8_192 if options.quick else 131_072
    bandwidth = copy_bandwidth(1 << 24 if options.quick else 1 << 28)
    with options.warm() as folder:
        return [
            *_layer(folder, options, bandwidth, "residual", residual(rows), {"int8": {}}, "<= 0.52"),
            *_layer(
                folder, options, bandwidth, "mlp", wide(rows // 4), {"int8": {}, "topk": {"topk": K}}, None
            ),
        ]


def residual(rows: int) -> torch.Tensor:
    """bfloat16 `[rows, 768]`: a residual stream with three outlier columns."""
    generator = torch.Generator().manual_seed(0)
    size = torch.exp(0.4 * torch.randn(RESIDUAL, generator=generator))
    size[list(OUTLIERS)] *= 100
    return (torch.randn(rows, RESIDUAL, generator=generator) * size).to(torch.bfloat16)


def wide(rows: int) -> torch.Tensor:
    """bfloat16 `[rows, 3072]`: GELU of Gaussians below zero."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, WIDE, generator=generator) - 1.5
    return torch.nn.functional.gelu(x).to(torch.bfloat16)


def _write(path: Path, x: torch.Tensor, dtype: str, options: dict[str, Any]) -> None:
    made = create_store(
        path, {"x": x.shape[1]}, dtype=dtype, samples_per_part=65_536, rows_per_sample=1, statistics=False,
        **options,
    )  # fmt: skip
    with made as store:
        for start in range(0, len(x), BATCH):
            some = x[start : start + BATCH]
            store.write(list(range(start, start + len(some))), {"x": some})


def _layer(
    folder: Path, options: Options, bandwidth: float, layer: str, x: torch.Tensor,
    profiles: dict[str, dict[str, Any]], size_target: str | None,
) -> list[Figure]:  # fmt: skip
    kinds: dict[str, dict[str, Any]] = {"bfloat16": {}, **profiles}
    works = {d: partial(_write, x=x, dtype=d, options=o) for d, o in kinds.items()}
    writes = interleave_paths(folder, works, options.repeats(3))
    stores: dict[str, Store] = {}
    for dtype, more in kinds.items():
        _write(folder / f"{layer}-{dtype}", x, dtype, more)
        stores[dtype] = open_store(folder / f"{layer}-{dtype}")
    draws = [np.random.default_rng(i).integers(0, len(x), BATCH) for i in range(8)]

    def gather(dtype: str, out: torch.dtype) -> None:
        for rows in draws:
            stores[dtype]["x"].gather(rows, out)

    reads = {
        out: interleave({d: partial(gather, d, out) for d in kinds}, options.repeats(7), warmup=2)
        for out in (torch.float32, torch.bfloat16)
    }
    figures = []
    for dtype in profiles:
        site = stores[dtype]["x"]
        size = site.nbytes / stores["bfloat16"]["x"].nbytes
        name = f"{layer}_{dtype}"
        stored = bytes_floor(site.nbytes, bandwidth)
        figures += [
            Figure(f"{name}_size_vs_bf16", size, size_target if dtype == "int8" else None,
                   f"{site.storage}, {site.nbytes / len(x):.0f} bytes a row of {x.shape[1]}",
                   f"{size_floor(dtype, x.shape[1]):.3f}: the values alone"),
            Figure(f"{name}_write_vs_bf16", ratio(writes[dtype], writes["bfloat16"]), None,
                   f"{writes[dtype]}; bfloat16 {writes['bfloat16']}", stored),
            *(
                Figure(f"{name}_gather_{str(out)[6:]}_vs_bf16", ratio(times["bfloat16"], times[dtype]), None,
                       f"{_rate(times[dtype])}; bfloat16 {_rate(times['bfloat16'])}",
                       bytes_floor(8 * BATCH * (site.nbytes / len(x) + x.shape[1] * out.itemsize), bandwidth))
                for out, times in reads.items()
            ),
            Figure(f"{name}_error", error(stores[dtype], x), None,
                   "root mean square error over root mean square, the median column's",
                   "0: the bfloat16 rows"),
        ]  # fmt: skip
    for store in stores.values():
        store.close()
    return figures


def size_floor(dtype: str, width: int) -> float:
    """Bytes of the values alone over those of bfloat16."""
    return 0.5 if dtype == "int8" else K / width


def _rate(timing: Timing) -> str:
    return f"{8 * BATCH / timing.median / 1e6:.2f} M rows/s"


def error(store: Store, x: torch.Tensor) -> float:
    """Root mean square error of a column over its root mean square, the median over columns."""
    some = range(min(len(x), 16_384))
    wanted = x[: len(some)].float()
    lost = (store["x"].gather(some, torch.float32) - wanted).square().mean(0)
    return float((lost / wanted.square().mean(0)).sqrt().median())
