"""The examples of FORMAT.md run, and its directory listing is what a store holds."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import mmxai.store
from mmxai.store import create_store

FORMAT = (Path(mmxai.store.__file__).parent / "FORMAT.md").read_text()


def test_the_examples_run(tmp_path: Path) -> None:
    path = tmp_path / "acts.zarr"
    tower = {"vision.5.resid_post": 96, "vision.5.z": 64, "vision.5.mlp_post": 384}
    sites = {"vision": tower, "vision.pooled": {"vision.embeds": 24}}
    kinds = dict.fromkeys([*tower, "vision.embeds"], "bfloat16")
    kinds |= {"vision.5.z": "int8", "vision.5.mlp_post": "topk"}
    options = {"topk": 32, "outliers": {"vision.5.z": [7]}, "notes": {"why": "an example"}}
    with create_store(path, sites, dtype=kinds, samples_per_part=4, **options) as store:
        for i in range(5):
            acts = {name: torch.randn(2, 7, width) for name, width in tower.items()}
            store.write([f"{i}.a", f"{i}.b"], {**acts, "vision.embeds": torch.randn(2, 24)})
    examples = re.findall(r"```python\n(.*?)```", FORMAT, flags=re.DOTALL)
    assert len(examples) >= 5
    exec(compile("\n".join(examples), "FORMAT.md", "exec"), {"path": path})


def test_the_listing_names_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "acts.zarr"
    kinds = {"vision.5.resid_post": "bfloat16", "vision.5.z": "int8"}
    options = {"dtype": kinds, "outliers": {"vision.5.z": [0]}, "space": "vision"}
    with create_store(path, dict.fromkeys(kinds, 96), **options) as store:
        store.write(["a"], dict.fromkeys(kinds, torch.randn(1, 3, 96)))
    for key in (
        "zarr.json", "vision.5.resid_post/zarr.json", "vision.5.resid_post/c.0.0", "rows/vision/zarr.json",
        "rows/vision/c.0.0", "mmxai/zarr.json", "mmxai/plan.json", "mmxai/commits/0.json", "mmxai/lock",
        "mmxai/samples/0.jsonl", "mmxai/stats/0.safetensors", "mmxai/segments", "mmxai/claims",
        "vision.5.z/zarr.json", "vision.5.z/values/c.0.0", "vision.5.z/scale/c.0.0",
        "vision.5.z/outliers/zarr.json",
    ):  # fmt: skip
        assert (path / key).exists(), key
