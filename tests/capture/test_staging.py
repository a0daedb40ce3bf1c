import pytest
import torch

from mmxai.capture.staging import SLOTS, Staging
from mmxai.errors import ArgumentError

WITHOUT = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=WITHOUT)]


@pytest.mark.parametrize("device", DEVICES)
def test_every_batch_arrives(device):
    """More batches than slots, their lengths changing, none waited for before all are under way."""
    staging, sent = Staging(device), []
    for batch in range(3 * SLOTS):
        outs = {}
        for site, width in (("a", 5), ("b", 700)):
            rows = 100 + 37 * (batch % 4)
            slot = staging.slot(site, rows, width, torch.float32)
            slot.fill_(batch)
            outs[site] = staging.pinned(rows * width, torch.float32).view(rows, width)
            staging.copy(site, slot, outs[site])
        sent.append((batch, outs, staging.flush()))
    for batch, outs, transfer in sent:
        transfer.wait()
        assert transfer.seconds >= 0
        assert all((x == batch).all() for x in outs.values())


def test_slots_are_used_again():
    staging, addresses = Staging("cpu"), []
    for _ in range(3 * SLOTS):
        addresses.append(staging.slot("a", 4, 4, torch.float32).data_ptr())
        staging.flush()
    assert len(set(addresses)) == SLOTS
    staging.slot("a", 8, 4, torch.float32)
    assert staging.slot("a", 8, 4, torch.bfloat16).dtype == torch.bfloat16


def test_nothing_was_copied():
    transfer = Staging("cpu").flush()
    transfer.wait()
    assert transfer.seconds == 0.0


def test_an_unknown_device():
    with pytest.raises(ArgumentError, match="expected cuda or cpu"):
        Staging("meta")
