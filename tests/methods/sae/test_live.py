"""Training from a running model: bounded, shuffled, split by sample, exact when it goes on."""

import json

import pytest
import torch
from torch import nn

from mmxai.data import Sample
from mmxai.errors import ArgumentError, CheckpointError, SelectionError
from mmxai.methods.sae import TrainConfig, train_sae
from mmxai.methods.sae.live import LiveOrigin
from mmxai.methods.sae.trainee import Trainee
from mmxai.models import wrap

SITE = "module:0"
CONFIG = {"sites": (SITE,), "batch": 64, "latents": 32, "k": 4, "init_rows": 200, "split": None}


@pytest.fixture
def origin():
    """A network whose first channel tells which sample and cell a row is; 16 rows a sample."""
    conv = nn.Conv2d(2, 6, 1)
    with torch.no_grad():
        conv.weight[0], conv.bias[0] = torch.tensor([[[1.0]], [[0.0]]]), 0.0
    draw = torch.Generator().manual_seed(0)
    samples = []
    for i in range(60):
        picture = torch.randn(2, 4, 4, generator=draw)
        picture[0] = 16 * i + torch.arange(16).view(4, 4)
        samples.append(Sample(str(i), tensors={"input": picture}))
    model = wrap(nn.Sequential(conv, nn.ReLU()), name="tiny", example=torch.zeros(1, 2, 4, 4))
    return LiveOrigin(model, samples, buffer=200, batch_size=4, workers=1)


def names(batch):
    return batch[SITE][:, 0].round().int().tolist()


def test_an_epoch_deals_out_each_row_at_most_once(origin):
    feed = origin.feed([SITE], TrainConfig(**CONFIG))
    first = [names(feed.next()) for _ in range(15)]  # five windows of 192 rows, each three batches
    seen = [row for batch in first for row in batch]
    assert sorted(seen) == list(range(960))
    assert len({row // 16 for row in first[0]}) > 6  # mixed
    assert sorted(names(feed.next())) != sorted(first[0])  # another epoch, another order
    assert all(len(held) == 200 for held in feed._held.values())


def test_goes_on_from_its_state(origin):
    config = TrainConfig(**CONFIG)
    feed = origin.feed([SITE], config)
    feed.sample(100)
    for _ in range(4):
        feed.next()
    state = json.loads(json.dumps(feed.state_dict()))
    rest = [feed.next()[SITE] for _ in range(14)]
    other = origin.feed([SITE], config)
    other.load_state_dict(state)
    assert all(torch.equal(other.next()[SITE], x) for x in rest)
    with pytest.raises(CheckpointError, match="seed"):
        origin.feed([SITE], TrainConfig(**CONFIG, seed=1)).load_state_dict(state)


def test_the_split_is_the_stores(origin):
    from mmxai.store.select import split_of

    feed = origin.feed([SITE], TrainConfig(**{**CONFIG, "split": "train"}))
    seen = {row // 16 for _ in range(12) for row in names(feed.next())}
    held = {i for i in range(60) if split_of(torch.tensor([i]).numpy(), (0.8, 0.1, 0.1))[0] != 0}
    assert seen and held and not seen & held


def test_a_run_goes_on_exactly(origin, tmp_path, monkeypatch):
    options = {**CONFIG, "rows": 64 * 20, "save_every": 6, "log_every": 5}
    (whole,) = train_sae(origin, **options)
    step = Trainee.step

    def dying(self, x, target, number, workspace):
        if number == 14:
            raise RuntimeError("killed")
        return step(self, x, target, number, workspace)

    monkeypatch.setattr(Trainee, "step", dying)
    with pytest.raises(RuntimeError, match="killed"):
        train_sae(origin, out=tmp_path, **options)
    monkeypatch.setattr(Trainee, "step", step)
    (resumed,) = train_sae(origin, out=tmp_path, **options)
    assert torch.equal(whole.W_enc, resumed.W_enc) and torch.equal(whole.W_dec, resumed.W_dec)
    assert whole.spec.identity["live"] is True


def test_what_cannot_be(origin):
    with pytest.raises(ArgumentError, match="--rows"):
        train_sae(origin, **CONFIG)
    with pytest.raises(ArgumentError, match="buffer of 200"):
        train_sae(origin, **{**CONFIG, "batch": 256, "rows": 1000})
    with pytest.raises(SelectionError, match="no row is left"):
        train_sae(origin, **CONFIG, rows=1000, tokens="text")
    with pytest.raises(ArgumentError, match="no numbers"):
        LiveOrigin(origin.model, iter(["a"]))
    small = LiveOrigin(origin.model, origin.source, buffer=64, batch_size=8)
    with pytest.raises(ArgumentError, match="overfills"):
        train_sae(small, **CONFIG, rows=1000)
