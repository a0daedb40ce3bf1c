"""A harvest's hooks with nothing behind them: rows are packed, counted and dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mmxai.bench.cases._vision import BATCH, Decoded
from mmxai.capture.engine import Extractor
from mmxai.capture.select import Selection
from mmxai.models import Model


def null_sink(model: Model, data: Decoded, sites: Sequence[str], *, stats: bool) -> Callable[[Path], None]:
    """Work that runs the model over the data as a harvest does; the path it is given stays unused."""
    inputs = model.collate([model.encode(data[i]) for i in range(BATCH)])

    def run(path: Path) -> None:
        extract = Extractor(model, model.resolve(sites), Selection(), torch.bfloat16)
        for _ in range(len(data) // BATCH):
            for packed in extract(inputs):
                extract.buffers.give_back(packed)

    return run
