"""A store whose units are known: one tells a label outright, two are twins, one is constant."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmxai.methods.neurons import RowLabels
from mmxai.store import create_store, open_store
from mmxai.types import TOKEN_CODES, Rows

SAMPLES, PER, UNITS, SITE = 301, 5, 12, "vision.1.mlp_post"
DETECTOR, TWINS, CONSTANT, SPARSE = 3, (5, 8), 10, 11


@pytest.fixture(scope="package", params=["bfloat16", "float16", "float32"])
def planted(request, tmp_path_factory):
    """The store, its values as stored, float32 `[N, 12]`, and labels bool `[N, 4]` (the last on nothing)."""
    made = torch.Generator().manual_seed(0)
    n = SAMPLES * PER
    x = torch.randn(n, UNITS, generator=made)
    labels = torch.rand(n, 4, generator=made) < torch.tensor([0.3, 0.05, 0.5, -1.0])
    labels[:, 1] &= ~labels[:, 0]  # they exclude one another
    x[:, DETECTOR] = labels[:, 0].float()
    x[:, 4] += 0.7 * labels[:, 1]
    x[:, TWINS[1]] = -2 * x[:, TWINS[0]] + 7
    x[:, CONSTANT] = 1.5
    x[:, SPARSE] = torch.where(torch.rand(n, generator=made) < 0.03, x[:, SPARSE].abs(), 0)
    cell = torch.arange(PER).repeat(SAMPLES) - 1
    rows = Rows.make(
        sample=torch.arange(SAMPLES).repeat_interleave(PER), position=cell + 1, image=0,
        y=torch.where(cell < 0, -1, cell // 2), x=torch.where(cell < 0, -1, cell % 2),
        token_type=torch.where(cell < 0, TOKEN_CODES["cls"], TOKEN_CODES["patch"]),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("stores") / "planted.zarr"
    with create_store(path, {SITE: UNITS}, dtype=request.param, samples_per_part=64, durable=False) as writer:
        writer.write([str(i) for i in range(SAMPLES)], {SITE: x}, rows)
    with open_store(path) as store:
        held = store[SITE].gather(np.arange(n), torch.float32).clone()
        yield SimpleNamespace(
            store=store, x=held.numpy(), y=labels.numpy(), rows=rows, dtype=request.param,
            labels=RowLabels(("told", "leant", "nothing", "nowhere"), _of(labels.numpy()), {"pair": (0, 1)}),
        )  # fmt: skip


def _of(labels):
    """Class tokens have no labels."""

    def of(rows):
        row = rows.sample.numpy() * PER + rows.position.numpy()
        kept = (rows.y >= 0).numpy()
        return kept, labels[row[kept]]

    return of
