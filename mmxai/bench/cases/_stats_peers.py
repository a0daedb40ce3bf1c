"""Packages that keep per-neuron statistics of a stream, in environments of their own (`--peers`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from mmxai.bench.figures import Figure, interleave, ratio
from mmxai.bench.floors import bytes_floor, copy_bandwidth
from mmxai.bench.options import Options
from mmxai.bench.peers import running, wanted
from mmxai.kernels.capture import NeuronState


def against_peers(
    batches: Sequence[torch.Tensor], k: int, ours: Callable[[], NeuronState], options: Options
) -> list[Figure]:
    """`fused_vs_<peer>`: ours does everything, each peer what it can."""
    if not wanted(options, "stats"):
        return []
    rows, width = batches[0].shape
    with options.warm() as folder:
        path = folder / "stream.bin"
        with open(path, "wb") as file:
            for x in batches:
                file.write(x.numpy().data)
        job = {"data": str(path), "folder": str(folder), "rows": rows, "width": width, "k": k,
               "threads": torch.get_num_threads()}  # fmt: skip
        with running(options, "stats", job) as rivals:
            works: dict[str, Callable[[], object]] = {"ours": ours}
            works |= {r.name: partial(r.run, "stream") for r in rivals.values()}
            timings = {n: t.per(len(batches)) for n, t in interleave(works, options.repeats(3)).items()}
            state = ours()
            for rival in rivals.values():
                rival.agree(_answers(state), tolerance=4e-3)  # ours is of values rounded to bfloat16
    floor = bytes_floor(batches[0].nbytes * 1.5, copy_bandwidth())
    return [
        Figure(f"fused_vs_{peer.key}", ratio(timings[peer.name], timings["ours"]), None,
               f"{peer.does}, {timings[peer.name]} a batch; ours does all {timings['ours']}", floor)
        for peer in rivals
    ]  # fmt: skip


def _answers(state: NeuronState) -> dict[str, float]:
    """What a peer may be asked for: means over neurons."""
    mean, m2 = state.moments.numpy()
    return {
        "mean": float(np.abs(mean).mean()),
        "std": float(np.sqrt(m2 / state.count).mean()),
        "top": float(state.top_values.double().mean()),
    }
