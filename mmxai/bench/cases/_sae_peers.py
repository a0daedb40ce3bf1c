"""The quickest way to run each SAE trainer here: as it is, compiled, with the options that it has."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from mmxai.bench.figures import interleave
from mmxai.bench.options import Options
from mmxai.bench.peers import Peer, PeerError, Rival, wanted

PLAIN = "plain"
VARIANTS = {
    "sparsify": (PLAIN, "fused", "compiled"),
    "saelens": (PLAIN, "compiled"),  # its sparse activations do not run on a CPU
    "dictionary-learning": (PLAIN, "compiled"),
}
TRIED = 1

Variants = Mapping[str, Mapping[str, str]]
"""Peer's name -> what its job has beside the others'."""


def best_variants(options: Options, job: Mapping[str, Any]) -> Variants:
    """The quickest variant of every peer wanted, by the second step of each; plain in a quick run."""
    return {
        peer.name: {"variant": PLAIN if options.quick else _best(peer, job)}
        for peer in wanted(options, "sae")
    }


def _best(peer: Peer, job: Mapping[str, Any]) -> str:
    name, python, seconds = peer.name, peer.python(), {}
    for variant in VARIANTS[name]:
        if variant == "compiled" and not shutil.which("c++"):
            continue
        try:
            with Rival(name, python, peer.script, {**job, "variant": variant}) as rival:
                timing = interleave({"step": partial(rival.run, "step")}, TRIED)["step"]
        except PeerError as error:
            if variant == PLAIN:
                raise
            print(f"{name}: {variant} does not run here: {error}", file=sys.stderr)
            continue
        print(f"{name}: {variant}, a step in {timing}", file=sys.stderr, flush=True)
        seconds[variant] = timing.median
    return min(seconds, key=lambda variant: seconds[variant])
