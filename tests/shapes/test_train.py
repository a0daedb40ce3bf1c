"""Training goes on exactly, learns, and leaves a folder that loads; the loss is the one described."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmxai.errors import ArgumentError, ModelError, PlanMismatchError
from mmxai.shapes.card import command, write_card
from mmxai.shapes.checkpoint import read_state
from mmxai.shapes.feed import Encoder, pad
from mmxai.shapes.loss import WEIGHTS, contrastive
from mmxai.shapes.model import new_clip
from mmxai.shapes.towers import Towers
from mmxai.shapes.train import Clip, held_out, main, train
from mmxai.shapes.world import ShapesWorld

TINY = {"batch": 8, "warmup": 2, "score_every": 1000, "score_pictures": 256, "workers": 0}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_run_cut_in_two_is_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setattr("mmxai.shapes.train.held_out", lambda *_: {})
    whole = Clip(tmp_path / "whole", steps=6, keep=(3,), **TINY)
    cut = replace(whole, out=tmp_path / "cut")
    done = train(whole)
    assert train(replace(cut, minutes=0.0)) is None
    assert read_state(cut.out)["step"] == 1
    assert train(cut) == cut.out / "model"
    one, two = (load_file(c.out / "state.safetensors") for c in (whole, cut))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    for name in ("model", "step-3"):
        one, two = (load_file(c.out / name / "model.safetensors") for c in (whole, cut))
        assert all(torch.equal(one[k], two[k]) for k in one)
    steps = [json.loads(line)["step"] for line in (cut.out / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert done.stat() and sum(f.stat().st_size for f in done.iterdir()) < 10e6
    assert "attn" not in (done / "config.json").read_text()
    with pytest.raises(PlanMismatchError, match=r"rate: was 0\.001, now 0\.01"):
        train(replace(whole, rate=0.01))


def test_a_run_may_be_made_longer_until_its_rate_falls(tmp_path, monkeypatch):
    monkeypatch.setattr("mmxai.shapes.train.held_out", lambda *_: {})
    long = Clip(tmp_path / "long", steps=8, **TINY)
    grown = replace(long, out=tmp_path / "grown", steps=4)
    train(long)
    assert train(replace(grown, minutes=0.0)) is None
    assert train(replace(grown, steps=8)) == grown.out / "model"
    one, two = (load_file(c.out / "model/model.safetensors") for c in (long, grown))
    assert all(torch.equal(one[k], two[k]) for k in one)
    with pytest.raises(PlanMismatchError, match="got 12 steps for a run of 8 whose rate falls"):
        train(replace(grown, steps=12))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_saves(tmp_path, number):
    """As `timeout`, a batch system or Ctrl-C in a terminal send it: workers get it too."""
    out = tmp_path / "run"
    args = ["--out", str(out), "--batch", "4", "--steps", "100000", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmxai.shapes.train", "clip", *args], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    try:
        for line in process.stdout:
            if '"loss"' in line:
                break
        os.killpg(process.pid, number)
        rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 0 and "stopped and saved at step" in rest
    assert read_state(out)["step"] >= 25


def test_it_learns_and_its_card_says_so(tmp_path, monkeypatch):
    """One picture kind after all: with 40 small steps the loss must fall, and the card must be whole."""
    config = Clip(tmp_path / "run", steps=40, keep=(20,), **TINY | {"batch": 32, "warmup": 10})
    monkeypatch.setattr("mmxai.shapes.train.held_out", lambda *_: {"retrieval": 0.5})
    train(config)
    entries = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    losses = [e["loss"] for e in entries if "loss" in e]
    assert losses[-1] < losses[0]
    found = write_card(config.out, tmp_path / "shipped", pictures=256)
    with monkeypatch.context() as patch:
        patch.setattr("mmxai.shapes.card.scores", lambda *_, **__: found["test"])
        write_card(config.out, tmp_path / "early", step=20)
    assert "20 steps of 32, of 40 of the whole run" in (tmp_path / "early/README.md").read_text()
    early, last = (load_file(tmp_path / f / "model.safetensors") for f in ("early", "shipped"))
    assert not torch.equal(early["visual_projection.weight"], last["visual_projection.weight"])
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert "1,280 pictures, each seen once: 40 steps of 32 in" in card and "curve.png" in card
    assert "--steps 40 --batch 32" in card and "--no-autocast" not in card
    for s in found["test"]:
        assert f"| {s.name} | {s.chance:.1%} | {s.value:.1%} [{s.low:.1%}, {s.high:.1%}] of {s.n:,} |" in card
    assert (tmp_path / "shipped" / "curve.png").stat().st_size > 5000
    weights = load_file(tmp_path / "shipped" / "model.safetensors")
    assert {w.dtype for w in weights.values()} <= {torch.float16, torch.int64}
    with pytest.raises(ModelError, match="no such model of the run"):
        write_card(tmp_path, tmp_path / "other")


def test_bad_settings(tmp_path, capsys):
    with pytest.raises(ArgumentError, match=r"paired 0\.9"):
        train(Clip(tmp_path, paired=0.9))
    for wrong in ({"save_every": 0}, {"negatives": -1}, {"keep": (9,), "steps": 8}, {"device": "cuda"}):
        if wrong != {"device": "cuda"} or not torch.cuda.is_available():
            with pytest.raises(ArgumentError, match="train: got"):
                train(Clip(tmp_path, **wrong))
    for text in ("place", "plaice:1:2", "place:1:x", "place:1:2:3"):
        with pytest.raises(ArgumentError, match="expected KIND:FROM:TO"):
            train(Clip(tmp_path, stress=(text,)))
    with pytest.raises(SystemExit):
        main(["clop"])
    assert main(["card", "--run", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
    assert "expected one that it has kept" in capsys.readouterr().err


def test_a_kind_is_stressed_for_some_steps():
    config = Clip(Path("run"), stress=("place:5:7", "relation:6:9"))
    for step, place, relation in ((4, 1, 1), (5, 10, 1), (6, 10, 10), (7, 1, 10), (9, 1, 1)):
        changed = {"place": place * WEIGHTS["place"], "relation": relation * WEIGHTS["relation"]}
        assert config.weights(step) == WEIGHTS | changed
    assert "--stress place:5:7 relation:6:9 --autocast" in command(config.settings, 9)
    assert "--stress" not in command(replace(config, stress=()).settings, 9)


def test_loss_by_hand():
    """Two sentences of one kind, two pictures, each true of its own: plain InfoNCE."""
    scores = torch.tensor([[2.0, 1.0], [0.5, 3.0]])
    own = torch.eye(2).bool()
    rows = torch.nn.functional.cross_entropy(scores, torch.arange(2))
    columns = torch.nn.functional.cross_entropy(scores.T, torch.arange(2))
    found = contrastive(scores, torch.zeros(2, dtype=torch.long), own, {"full": 1.0})
    torch.testing.assert_close(found, (rows + columns) / 2)
    # True of both pictures: it is nobody's negative. Of another kind: likewise.
    both = torch.tensor([[True, True], [False, True]])
    alone = contrastive(scores, torch.zeros(2, dtype=torch.long), both, {"full": 1.0})
    expected = (math.log1p(math.exp(0.5 - 3.0)) / 2 + math.log1p(math.exp(0.5 - 2.0)) / 2) / 2
    torch.testing.assert_close(alone.item(), expected, rtol=1e-5, atol=1e-6)
    apart = contrastive(scores, torch.tensor([0, 1]), own, {"full": 1.0, "relation": 1.0})
    rows = torch.nn.functional.cross_entropy(scores, torch.arange(2)) / 2
    torch.testing.assert_close(apart, rows)


def test_a_torn_line_of_the_log_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr("mmxai.shapes.train.held_out", lambda *_: {})
    config = Clip(tmp_path, steps=3, **TINY)
    assert train(replace(config, minutes=0.0)) is None
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 1, "lo')
    train(config)
    assert all(json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())


def test_scores_while_training_leave_it_training(tmp_path):
    towers = Towers(new_clip().train(), autocast=True)
    found = held_out(towers, 256)
    assert towers.model.training and 0 <= found["zero-shot shape"] <= 1


def test_attention_written_out_is_the_model_s():
    """On padded sentences and pictures, forward and backward, in float32."""
    items = ShapesWorld(6, seed=1)[:]
    tokens = [pad([Encoder()(i.caption) for i in items])]
    images = torch.from_numpy(np.stack([i.image for i in items]))
    results = []
    for autocast in (False, True):
        towers = Towers(new_clip().train(), autocast=autocast)
        towers.autocast = False
        score = (towers.texts(tokens) @ towers.pictures(images).T).diagonal().sum()
        score.backward()
        results.append((score.detach(), [p.grad for p in towers.model.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-3)


def test_a_sentence_without_a_picture_is_only_a_negative():
    scores = torch.randn(3, 2, requires_grad=True)
    true = torch.tensor([[True, False], [False, True], [False, False]])
    loss = contrastive(scores, torch.zeros(3, dtype=torch.long), true, {"full": 1.0})
    loss.backward()
    assert (scores.grad[2] > 0).all() and torch.isfinite(scores.grad).all()
    scores.grad = None
    contrastive(scores, torch.zeros(3, dtype=torch.long), torch.zeros(3, 2).bool(), {"full": 1.0}).backward()
    assert (scores.grad == 0).all()
