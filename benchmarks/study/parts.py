"""The studies. Each trains into `folder`, goes on where it was stopped, and returns plain JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mmxai
from benchmarks.study.dissected import dissected
from benchmarks.study.nulls import nulls
from benchmarks.study.real import real
from benchmarks.study.sites import BOTH, Size, figures, harvested
from benchmarks.study.traced import traced
from mmxai.methods.sae import SAE, TrainConfig, train_sae
from mmxai.methods.sae.measures import Metrics
from mmxai.methods.sae.pca import pca_sae
from mmxai.methods.sae.rows import training_rows

FEW, TOPK_KEPT = 131_072, 96
L1 = (0.02, 0.05, 0.1, 0.2)
STORES = ("float32", "bfloat16", "int8", "topk")
BLOCKS = range(6)

Row = dict[str, Any]


def fronts(folder: Path, size: Size) -> list[Row]:
    """FVU and L0 of every architecture at several sparsities, beside PCA with as many active."""
    families: dict[str, list[TrainConfig]] = {
        arch: [size.config(arch=arch, k=k) for k in size.ks] for arch in ("topk", "batchtopk", "matryoshka")
    }
    families["jumprelu"] = [size.config(arch="jumprelu", target_l0=float(k)) for k in size.ks]
    families["relu"] = [size.config(arch="relu", penalty=p) for p in L1]
    rows: list[Row] = []
    with mmxai.open_store(harvested(folder, size, BOTH, "bfloat16")) as store:
        for arch, configs in families.items():
            saes = train_sae(store, configs, out=folder / f"front-{arch}", part_of="0/1")
            named = {str(i): sae for i, sae in enumerate(saes)}
            rows += [row(arch, m) for m in figures(named, store).values()]
        pcas = {str(k): pca_sae(saes[0].spec, k, training_rows(saes[0].spec, store, FEW)) for k in size.ks}
        rows += [row("pca", m) for m in figures(pcas, store).values()]
    return rows


def stores(folder: Path, size: Size) -> list[Row]:
    """What a store's data type costs: trained from it, measured on the same rows in float32; two seeds."""
    rows: list[Row] = []
    for site in BOTH:
        exact = harvested(folder, size, BOTH, "float32")
        for dtype in STORES:
            options = {"topk": TOPK_KEPT} if dtype == "topk" else {}
            with mmxai.open_store(harvested(folder, size, BOTH, dtype, **options)) as store:
                config = size.config(sites=(site,), rows=size.rows // 2)
                saes = {
                    str(seed): train_sae(
                        store, replace(config, seed=seed), out=folder / f"store-{dtype}-{seed}", part_of="0/1"
                    )[0]
                    for seed in (0, 1)
                }
                size_of_row = store[site].nbytes / len(store[site])
            with mmxai.open_store(exact) as truth:
                found = figures(saes, truth).values()
            rows.append({"site": site, "store": dtype, "bytes": size_of_row, "fvu": [m.fvu for m in found]})
    return rows


def transcoders(folder: Path, size: Size) -> list[Row]:
    """Every block's MLP as a transcoder with a skip path, beside the best linear map."""
    sites = ("vision.*.resid_mid", "vision.*.mlp_out")
    with mmxai.open_store(harvested(folder, size, sites, "bfloat16")) as store:
        config = size.config(
            sites=sites[:1], sites_out=sites[1:], skip=True, rows=size.rows // 2, latents=size.latents // 2
        )
        saes = train_sae(store, config, out=folder / "transcoders", part_of="0/1")
        rows = []
        for block, sae in zip(BLOCKS, saes, strict=True):
            spec = sae.spec
            linear = pca_sae(spec, spec.width_in, training_rows(spec, store, FEW))
            found = figures({"coder": sae, "linear": linear}, store)
            coder = found["coder"]
            rows.append({"block": block, "fvu": coder.fvu, "linear": found["linear"].fvu, "l0": coder.l0,
                         "dead": coder.dead})  # fmt: skip
    return rows


def dead(folder: Path, size: Size) -> list[Row]:
    """AuxK and when a latent counts as dead: many latents, few active."""
    half = size.rows // 2
    common = {"latents": 2 * size.latents, "k": 16, "rows": half}
    tried: dict[str, dict[str, Any]] = {
        "none": {"aux": 0.0},
        "default": {},
        **{f"{after:,} rows": {"dead_after": after} for after in (half // 100, half // 20, half // 5)},
    }
    with mmxai.open_store(harvested(folder, size, BOTH, "bfloat16")) as store:
        saes: dict[str, SAE] = {}
        for i, (name, options) in enumerate(tried.items()):
            config = size.config(**{**common, **options})
            saes[name] = train_sae(store, config, out=folder / f"dead-{i}", part_of="0/1")[0]
        return [{"aux": name, **row("", m)} for name, m in figures(saes, store).items()]


def row(arch: str, m: Metrics) -> Row:
    return {"arch": arch, "l0": m.l0, "fvu": m.fvu, "dead": m.dead, "cosine": m.cosine, "rows": m.rows}


PARTS = {
    "fronts": fronts,
    "stores": stores,
    "transcoders": transcoders,
    "dead": dead,
    "nulls": nulls,
    "real": real,
    "dissected": dissected,
    "traced": traced,
}
