"""Cosines of sets of directions, against every matching tried out."""

from itertools import permutations

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.linalg.overlap import matched_cosine, overlap


def drawn(n, width=8, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("signed", [True, False])
def test_matching_is_the_best_of_all(signed):
    one, two = drawn(4), drawn(5, seed=1)
    cosines = torch.nn.functional.cosine_similarity(one[:, None], two[None], dim=2).double().numpy()
    cosines = cosines if signed else np.abs(cosines)
    best = max(cosines[range(4), list(order)].mean() for order in permutations(range(5), 4))
    assert matched_cosine(one, two, signed=signed) == pytest.approx(best, abs=1e-6)
    found = overlap(one, two, signed=signed)
    np.testing.assert_allclose(found.best, cosines.max(1), atol=1e-6)
    assert found.other.tolist() == cosines.argmax(1).tolist()
    mutual = [cosines[:, j].argmax() == i for i, j in enumerate(cosines.argmax(1))]
    assert found.mutual.tolist() == mutual
    assert found.shared == pytest.approx(np.mean(mutual & (cosines.max(1) >= 0.7)))


def test_the_same_in_another_order_of_other_lengths():
    one = drawn(6)
    two = one[torch.tensor([3, 1, 0, 5, 4, 2])] * torch.arange(1, 7)[:, None]
    assert matched_cosine(one, two) == pytest.approx(1) and overlap(one, two).mean_max == pytest.approx(1)
    assert overlap(one, two).shared == 1
    assert matched_cosine(one, -two) < 0.9 < matched_cosine(one, -two, signed=False)


def test_two_that_collapse_match_once():
    """Twice the same direction finds its best twice, but has one partner only."""
    one = torch.eye(4)[[0, 0]]
    assert overlap(one, torch.eye(4)).mean_max == 1 and matched_cosine(one, torch.eye(4)) == 0.5


def test_chance_is_what_random_directions_reach():
    found = overlap(drawn(500, 32), drawn(300, 32, seed=1), seed=2)
    assert found.mean_max == pytest.approx(found.chance, abs=0.02)
    for seed in range(5):  # of one direction, too: not by the luck of a single draw
        one = overlap(drawn(1, 32), drawn(300, 32, seed=1), seed=seed)
        assert one.chance == pytest.approx(found.chance, abs=0.01)
    assert "0.0% of 500 shared" in found.summary() and len(found.to_pandas()) == 500


@pytest.mark.parametrize("measure", [overlap, matched_cosine])
def test_refuses_what_has_no_cosine(measure):
    spoilt = drawn(3)
    spoilt[1, 2] = torch.nan
    for one, two in (
        (drawn(3, 4), drawn(3, 5)),
        (drawn(0), drawn(3)),
        (drawn(3)[0], drawn(3)),
        (spoilt, drawn(3)),
    ):
        with pytest.raises(ArgumentError, match="expected finite ones of one width"):
            measure(one, two)
