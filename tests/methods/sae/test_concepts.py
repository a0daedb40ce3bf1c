"""Concept scores on activations that are the patches' labels themselves."""

import numpy as np
import pytest
import torch

from mmxai.methods.sae.absorption import absorbed_share
from mmxai.methods.sae.activity import Activity
from mmxai.methods.sae.concepts import monosemanticity, score_concepts
from tests.methods.sae.planted import orthonormal, sae_of, world_store


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    store, truth = world_store(tmp_path_factory.mktemp("world") / "s", pictures=96)
    kinds = len(truth.cell_names)
    right = sae_of(torch.eye(kinds), arch="relu")
    mixed = sae_of(orthonormal(kinds), arch="relu")
    found = score_concepts({"right": right, "mixed": mixed}, store, truth, samples=80)
    return truth, found


def test_a_latent_a_label_scores_all(known):
    truth, found = known
    right = found["right"]
    assert right.samples == 80 and right.cells == 80 * 64
    cells = right.of("cell")
    assert len(cells) > 15
    for score in cells:
        assert truth.cell_names[score.latent] == score.name
        assert score.f1 == score.iou == score.auprc == 1 and score.split == 1 and score.absorbed == 0
    by_name = {s.name: s for s in right.of("sample")}
    assert by_name["red"].f1 > 0.9  # an object may be too small to cover a patch
    assert truth.cell_names[by_name["red"].latent] == "red"


def test_mixed_directions_score_less(known):
    _, found = known
    right, mixed = found["right"].means(), found["mixed"].means()
    assert mixed["IoU"] < 0.7 * right["IoU"] and mixed["F1"] < right["F1"]
    assert right["monosemanticity"] > mixed["monosemanticity"] > found["mixed"].likeness
    assert "concepts over 80 samples" in repr(found["right"])
    assert len(found["right"].to_pandas()) == len(found["right"].scores)


def test_monosemanticity_by_hand():
    draw = np.random.default_rng(0)
    dense = np.maximum(draw.normal(size=(20, 3)), 0)
    dense[:, 2] = 0
    dense[4, 2] = 1  # a single sample: no pairs
    vectors = draw.normal(size=(20, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, columns = np.nonzero(dense)
    values = dense[rows, columns].astype(np.float32)
    found = monosemanticity(Activity.highest(rows, columns, values, 20, 3), vectors)
    for latent in range(2):
        v = dense[:, latent].astype(np.float32).astype(float)
        weights = np.outer(v, v)
        np.fill_diagonal(weights, 0)
        assert found[latent] == pytest.approx((weights * (vectors @ vectors.T)).sum() / weights.sum())
    assert np.isnan(found[2])


def test_absorption_is_counted():
    """Of 10 cells with the concept (direction 0): 6 by its own latent 0, 3 by latent 1, which writes along it
    too, 1 by latent 2, which writes elsewhere."""
    written = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1.0]], dtype=torch.float64)
    label = np.zeros(12, bool)
    label[:10] = True
    latents = np.array([0] * 6 + [1] * 3 + [2, 1, 2])
    activity = Activity.highest(np.arange(12), latents, np.ones(12, np.float32), 12, 3)
    along = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    assert absorbed_share(written, activity, label, [0], along) == pytest.approx(0.3)
    assert absorbed_share(written, activity, label, [0, 1], along) == 0
    assert np.isnan(absorbed_share(written, activity, label & False, [0], along))
