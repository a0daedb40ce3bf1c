"""An SAE of the shapes CLIP beside its nulls: what `mmxai sae eval` says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mmxai
from benchmarks.study.sites import BOTH, MODEL, Size, harvested
from mmxai.cli.sae_eval import Config, run
from mmxai.methods.sae import train_sae
from mmxai.methods.sae.evaluate import EvalConfig

Row = dict[str, Any]


def nulls(folder: Path, size: Size) -> list[Row]:
    """A TopK SAE of the residual stream and one of an MLP's neurons, each with all that eval measures."""
    rows = []
    for site in BOTH:
        store = harvested(folder, size, BOTH, "bfloat16")
        out = folder / "nulls"
        config = size.config(sites=(site,), rows=2 * size.rows, k=16)
        with mmxai.open_store(store) as opened:
            train_sae(opened, config, out=out, part_of="0/1")
        run(Config(str(out / site), str(store), eval=EvalConfig(rows=1 << 30), model=MODEL))
        found = json.loads((out / site / "eval.json").read_text())
        rows.append({
            "site": site, "latents": size.latents, "k": config.k, "rows": found["metrics"]["rows"],
            "samples": found["concepts"]["samples"], "likeness": found["concepts"]["likeness"],
            "figures": {"sae": found["figures"], **{n: e["figures"] for n, e in found["nulls"].items()}},
            "overlap": {n: found["nulls"]["seed"]["overlap"][n] for n in ("mean_max", "shared", "chance")},
            "recovered": found["recovered"],
        })  # fmt: skip
    return rows
