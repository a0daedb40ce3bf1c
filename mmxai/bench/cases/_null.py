"""A harvest's hooks with nothing behind them: rows are packed, taken into statistics, and dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import mmxai
from mmxai.bench.cases._vision import BATCH, Decoded
from mmxai.capture.engine import Extractor, Statistics
from mmxai.capture.select import Selection
from mmxai.harvesting.planning import Estimate
from mmxai.models import Model

UNUSED = "mmxai-bench-no-store.zarr"


def null_sink(model: Model, data: Decoded, sites: Sequence[str], *, stats: bool) -> Callable[[Path], None]:
    """Work that runs the model over the data as a harvest does, with states as short as its parts.

    The path it is given stays unused.
    """
    batches = [
        model.collate([model.encode(data[i]) for i in range(start, start + BATCH)])
        for start in range(0, len(data) - BATCH + 1, BATCH)
    ]
    estimate = mmxai.harvest(model, data, sites=list(sites), batch_size=BATCH, dry_run=True, store=UNUSED)
    if not isinstance(estimate, Estimate):
        raise TypeError(f"a dry run returned {type(estimate).__name__}")
    per_part = max(1, estimate.samples_per_part // BATCH)
    chosen = Statistics() if stats else None
    extract = Extractor(model, model.resolve(sites), Selection(), torch.bfloat16, chosen)

    def run(path: Path) -> None:
        for done, inputs in enumerate(batches, 1):
            for packed in extract(inputs):
                extract.buffers.give_back(packed)
            if done % per_part == 0:
                extract.buffers.give_back_states(extract.take_states())
        extract.buffers.give_back_states(extract.take_states())

    return run
