"""Edits against plain numpy, on rows of every shape, dtype and order in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError
from mmxai.models import edits


@pytest.fixture
def x():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32"))


@pytest.fixture
def v():
    return torch.from_numpy(np.random.default_rng(1).normal(size=8).astype("float32"))


def test_they_are_the_public_edits():
    assert mmxai.edits is edits


def test_add(x, v):
    np.testing.assert_allclose(edits.add(v, 2.5)(x), x.numpy() + 2.5 * v.numpy(), rtol=1e-6)


def test_project_out_leaves_nothing_of_the_span_and_all_of_the_rest(x, v):
    others = torch.randn(8, generator=torch.Generator().manual_seed(2))
    span = torch.stack([v, others, v - 3 * others])  # rank 2
    y = edits.project_out(span)(x).numpy()
    assert np.abs(y @ span.numpy().T).max() < 1e-5
    q = np.linalg.qr(np.stack([v, others]).T.astype("float64"))[0]
    np.testing.assert_allclose(y, x.numpy() - x.numpy() @ q @ q.T, atol=1e-5)
    twice = edits.project_out(span)(torch.from_numpy(y))
    np.testing.assert_allclose(twice, y, atol=1e-6)


def test_project_out_about_a_centre_keeps_the_centres_part(x, v):
    centre = torch.arange(8.0)
    y = edits.project_out(v, centre)(x).double() @ v.double()
    np.testing.assert_allclose(y, float(centre.double() @ v.double()), rtol=1e-4)


def test_affine_is_leace_shaped(x):
    rng = np.random.default_rng(3)
    matrix, centre = rng.normal(size=(8, 8)).astype("float32"), rng.normal(size=8).astype("float32")
    y = edits.affine(torch.from_numpy(matrix), torch.from_numpy(centre))(x)
    expected = np.einsum("de,bte->btd", matrix, x.numpy() - centre) + centre
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("low", "high"), [(-0.3, 0.4), (None, 0.0), (0.2, None), (1.5, 1.5)])
def test_clamp_bounds_the_coordinate_and_moves_nothing_else(x, v, low, high):
    y = edits.clamp(7 * v, low, high)(x).double().numpy()
    unit = (v.double() / v.double().norm()).numpy()
    expected = np.clip(x.double().numpy() @ unit, low, high)
    np.testing.assert_allclose(y @ unit, expected, atol=1e-5)
    rest = np.eye(8) - np.outer(unit, unit)
    np.testing.assert_allclose(y @ rest, x.double().numpy() @ rest, atol=1e-5)


def test_columns(x):
    units = [6, 1]
    before = x.clone()
    for edit, expected in (
        (edits.scale(units, -2), x[..., units] * -2),
        (edits.zero(units), torch.zeros(3, 5, 2)),
        (edits.mean(units, torch.tensor([4.0, 5.0])), torch.tensor([4.0, 5.0]).expand(3, 5, 2)),
    ):
        y = edit(x)
        torch.testing.assert_close(y[..., units], expected)
        rest = [0, 2, 3, 4, 5, 7]
        assert torch.equal(y[..., rest], x[..., rest])
    assert torch.equal(x, before)


def test_resample_draws_whole_rows_evenly_and_by_its_seed():
    source = torch.arange(4.0)[:, None] * torch.tensor([1.0, 100.0])
    x = torch.full((40, 50, 3), -1.0)
    edit = edits.resample([2, 0], source, seed=5)
    first, second = edit(x), edit(x)
    assert torch.equal(first[..., 0], first[..., 2] * 100) and (first[..., 1] == -1).all()
    counts = torch.bincount(first[..., 2].long().flatten(), minlength=4)
    assert (counts - 500).abs().max() < 5 * 20  # five standard deviations of a draw of 2,000
    assert not torch.equal(first, second)
    assert torch.equal(edits.resample([2, 0], source, seed=5)(x), first)


def test_only_some_rows(x):
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 2] = mask[2, 0] = True
    y = edits.only(mask, edits.zero(range(8)))(x)
    assert not y[mask].any() and torch.equal(y[~mask], x[~mask])
    y = edits.only(torch.arange(5) == 0, edits.zero(range(8)))(x)
    assert not y[:, 0].any() and torch.equal(y[:, 1:], x[:, 1:])
    with pytest.raises(ArgumentError, match="one token"):
        edits.only(mask, edits.zero([0]))(x[:, :1])


def test_head_columns():
    assert edits.head_columns([2, 0], 4, 12) == [6, 7, 8, 0, 1, 2]
    with pytest.raises(ArgumentError, match="heads_of"):
        edits.head_columns([4], 4, 12)


def test_half_precision_is_computed_in_float32_and_gradients_pass(x, v):
    made = {
        "add": edits.add(v), "out": edits.project_out(v), "clamp": edits.clamp(v, -0.1, 0.1),
        "affine": edits.affine(torch.eye(8) * 0.5, v), "scale": edits.scale([3], 2), "zero": edits.zero([1]),
        "mean": edits.mean([1], v[:1]), "resample": edits.resample([0], v[:, None]),
    }  # fmt: skip
    for name, edit in made.items():
        low = x.bfloat16()
        got = edit(low)
        assert got.dtype == torch.bfloat16, name
        if name != "resample":
            assert torch.equal(got, edit(low.float()).bfloat16()), name
        leaf = x.double().requires_grad_()
        edit(leaf).pow(2).sum().backward()
        assert torch.isfinite(leaf.grad).all() and leaf.grad.any(), name


@pytest.mark.parametrize(
    "make",
    [
        lambda: edits.add(torch.ones(2, 3)),
        lambda: edits.add(torch.ones(3, dtype=torch.int64)),
        lambda: edits.add(torch.ones(3))(torch.ones(1, 1, 4)),
        lambda: edits.project_out(torch.zeros(3)),
        lambda: edits.project_out(torch.full((3,), torch.nan)),
        lambda: edits.clamp(torch.ones(3)),
        lambda: edits.clamp(torch.ones(3), 1, 0),
        lambda: edits.clamp(torch.zeros(3), 1),
        lambda: edits.affine(torch.eye(3), torch.ones(4)),
        lambda: edits.zero([1, 1]),
        lambda: edits.zero([-1]),
        lambda: edits.zero(torch.tensor([True, False])),  # no units 1 and 0
        lambda: edits.zero([True, False]),
        lambda: edits.scale([0.2, 1.7], 2.0),
        lambda: edits.zero([3])(torch.ones(1, 3)),
        lambda: edits.mean([1, 2], torch.ones(3)),
        lambda: edits.resample([1], torch.ones(0, 1)),
        lambda: edits.only(torch.ones(3), edits.zero([0])),
    ],
)
def test_what_makes_no_sense_is_refused(make):
    with pytest.raises(ArgumentError, match="expected"):
        make()
