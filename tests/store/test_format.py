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
    sites = {"vision": {"vision.5.resid_post": 96}, "vision.pooled": {"vision.embeds": 24}}
    with create_store(path, sites, samples_per_part=4, notes={"why": "an example"}) as store:
        for i in range(5):
            acts = {"vision.5.resid_post": torch.randn(2, 7, 96), "vision.embeds": torch.randn(2, 24)}
            store.write([f"{i}.a", f"{i}.b"], acts)
    examples = re.findall(r"```python\n(.*?)```", FORMAT, flags=re.DOTALL)
    assert len(examples) >= 5
    exec(compile("\n".join(examples), "FORMAT.md", "exec"), {"path": path})


def test_the_listing_names_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "acts.zarr"
    with create_store(path, {"vision.5.resid_post": 96}, space="vision") as store:
        store.write(["a"], {"vision.5.resid_post": torch.randn(1, 3, 96)})
    for key in (
        "zarr.json", "vision.5.resid_post/zarr.json", "vision.5.resid_post/c.0.0", "rows/vision/zarr.json",
        "rows/vision/c.0.0", "mmxai/zarr.json", "mmxai/plan.json", "mmxai/commits/0.json", "mmxai/lock",
        "mmxai/samples/0.jsonl", "mmxai/stats/0.safetensors", "mmxai/segments", "mmxai/claims",
    ):  # fmt: skip
        assert (path / key).exists(), key
