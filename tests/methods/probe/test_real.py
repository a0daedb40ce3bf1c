"""Real models on real data, beside scikit-learn on the same features."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import RidgeClassifier

import mmxai
from mmxai.labels import read_labels
from mmxai.methods.probe import ProbeConfig, probe
from mmxai.store.select import split_of
from tests.networks.resnet import load_resnet20, normalise

PENALTY = 10.0


def written(folder, labels):
    path = folder / "labels.csv"
    path.write_text("sample,label\n" + "\n".join(f"{i},{v}" for i, v in enumerate(labels)))
    return path


def same_as_scikit_learn(store, labels, score, features, config):
    """The probe's accuracy is that of RidgeClassifier on the same split, to one prediction of a hundred."""
    test = split_of(np.arange(len(labels)), (1 - config.test, 0.0, config.test)) == 2
    there = RidgeClassifier(alpha=PENALTY).fit(features[~test], labels[~test])
    expected = there.score(features[test], labels[test])
    assert score.test == test.sum() and score.figures["accuracy"].value == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    "file, count, least", [("TREC.train.all", 1500, 0.45), ("stsa.binary.train", 1200, 0.56)]
)
def test_questions_and_sentiment_through_a_language_model(shared_data, tmp_path, file, count, least):
    """Six kinds of question, two of opinion, in the mean of a sentence's tokens; controls are at chance."""
    path = shared_data / "text_labels" / file
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[:count]
    labels, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    labels = np.array(labels)
    store = tmp_path / "acts.zarr"
    mmxai.harvest(
        mmxai.load_model(str(shared_data / "stories260K")), [{"text": t} for t in texts],
        sites="text.{0,2,4}.resid_post", store=store, long="truncate", store_dtype="float32", progress=False,
    )  # fmt: skip
    with mmxai.open_store(store) as opened:
        known = read_labels(written(tmp_path, labels), opened)
        config = ProbeConfig(pool="mean", tokens="text", penalties=(PENALTY,), absolute=True)
        report = probe(opened, known, config)
        rows = opened.rows["text"]
        kept = rows.token_type == 4
        for score in report.scores:
            x = opened[score.site][:][kept].double()
            of = rows.sample[kept].long()
            sums = torch.zeros(count, x.shape[1], dtype=torch.float64).index_add_(0, of, x)
            means = (sums / torch.bincount(of, minlength=count)[:, None]).numpy()
            same_as_scikit_learn(opened, labels, score, means, config)
        best = report.best("label")
        assert best.figures["accuracy"].value > max(least, best.majority)
        assert best.selectivity.low > 0 and best.codelength.bits < best.control_codelength.bits


def test_digits_through_a_resnet(shared_data, tmp_path):
    """MNIST through ResNet-20 of CIFAR-10: digits in the means of its maps, better in the middle than in
    pixels' first map."""
    sheet = np.array(Image.open(shared_data / "mnist" / "mnist_batch_0.png"))
    pixels = sheet.reshape(len(sheet), 28, 28, -1)[:900, :, :, 0]
    images = [Image.fromarray(p).convert("RGB").resize((32, 32)) for p in pixels]
    text = (shared_data / "mnist" / "mnist_labels.js").read_text()
    digits = np.array([int(v) for v in text.split("[", 1)[1].split("]")[0].split(",")[:900]])
    net = load_resnet20(shared_data / "resnet_cifar10")
    model = mmxai.wrap(net, prepare=lambda sample: normalise(sample.image), name="resnet20")
    sites = ["module:layer1.2", "module:layer2.2", "module:layer3.2"]
    store = tmp_path / "acts.zarr"
    mmxai.harvest(model, images, sites=sites, store=store, store_dtype="float32", progress=False)
    with mmxai.open_store(store) as opened:
        known = read_labels(written(tmp_path, digits), opened)
        config = ProbeConfig(sites=tuple(sites), pool="mean", penalties=(PENALTY,), absolute=True)
        report = probe(opened, known, config)
        assert report.sites == sites, "three row spaces in one report"
        for score in report.scores:
            rows = opened.rows[opened[score.site].space]
            x = opened[score.site][:].double()
            sums = torch.zeros(900, x.shape[1], dtype=torch.float64).index_add_(0, rows.sample.long(), x)
            means = (sums / (len(x) / 900)).numpy()
            same_as_scikit_learn(opened, digits, score, means, config)
        first, middle, _ = (s.figures["accuracy"].value for s in report.scores)
        assert middle > 0.5 and middle > first, (first, middle)
        assert all(s.control["accuracy"].value < 0.2 for s in report.scores)
