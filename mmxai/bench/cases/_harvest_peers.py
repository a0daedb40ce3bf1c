"""Other ways to put a model's activations on disk, in environments of their own (`--peers`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import mmxai
from mmxai.bench.cases._vision import BATCH, Decoded, harvest
from mmxai.bench.figures import Figure, interleave_paths, ratio
from mmxai.bench.options import Options
from mmxai.bench.peers import running, wanted
from mmxai.models import Model


def against_peers(folder: Path, model: Model, count: int, options: Options) -> list[Figure]:
    """`harvest_vs_<peer>`: the same sites, weights and pictures; statistics on in ours."""
    if not wanted(options, "harvest"):
        return []
    data = Decoded(count, model.config.image_size)
    pixels = folder / "pixels.bin"
    data.pixels.numpy().tofile(pixels)
    config = {k: v for k, v in model.config.to_dict().items() if isinstance(v, (int, float, str))}
    job = {"config": config, "pixels": str(pixels), "batches": count // BATCH,
           "threads": torch.get_num_threads()}  # fmt: skip

    def forward(path: Path) -> None:
        with torch.no_grad():
            for _ in range(count // BATCH):
                model.module(pixel_values=data.pixels)

    with running(options, "harvest", job) as rivals:
        works: dict[str, Callable[[Path], object]] = {
            "forward": forward,
            "ours": partial(harvest, model, data),
        }
        works |= {r.name: partial(r.run, "harvest") for r in rivals.values()}
        timings = interleave_paths(folder, works, options.repeats(3))
        answers = _answers(model, data, folder / "peers.zarr")
        for rival in rivals.values():
            rival.agree(answers, tolerance=1e-3)
    return [
        Figure(f"harvest_vs_{peer.key}", ratio(timings[peer.name], timings["ours"]), None,
               f"{peer.does}: {timings[peer.name]}; ours {timings['ours']}",
               f"forward {timings['forward']}, {count} pictures")
        for peer in rivals
    ]  # fmt: skip


def _answers(model: Model, data: Decoded, path: Path) -> dict[str, float]:
    """Mean size of what was stored, a site."""
    harvest(model, data, path)
    with mmxai.open_store(path) as store:
        return {name: float(store[name][0 : len(store[name])].double().abs().mean()) for name in store.sites}
