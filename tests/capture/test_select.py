"""Token selection against a plain Python reading of its specification."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmxai.capture.select import Selection, pooled_mean, pooled_rows
from mmxai.errors import SelectionError
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

TYPE = ROW_COLUMNS.index("token_type")


def grid(samples: list[int], cls: int = 1, side: int = 4) -> torch.Tensor:
    """A row table of ViT-like samples: `cls` cls rows, then side x side patches."""
    out = torch.full((len(samples), cls + side * side, 8), -1, dtype=torch.int32)
    for b, sample in enumerate(samples):
        for t in range(out.shape[1]):
            y, x = divmod(t - cls, side) if t >= cls else (-1, -1)
            kind = TOKEN_CODES["patch" if t >= cls else "cls"]
            out[b, t] = torch.tensor([sample, t, y, x, kind, -1, -1, -1])
    return out


def texts(lengths: list[int], width: int) -> torch.Tensor:
    """A row table of right-padded texts: one special row, text rows, padding."""
    out = torch.full((len(lengths), width, 8), -1, dtype=torch.int32)
    for b, length in enumerate(lengths):
        for t in range(width):
            name = "pad" if t >= length else "special" if t == 0 else "text"
            out[b, t, 0], out[b, t, 1], out[b, t, TYPE] = b, t, TOKEN_CODES[name]
    return out


def test_default_keeps_all_but_padding():
    keep = Selection().keep(texts([3, 5, 1], 5))
    assert keep.sum(1).tolist() == [3, 5, 1]


def test_token_types():
    rows = grid([7, 8])
    assert Selection(("patch",)).keep(rows).sum(1).tolist() == [16, 16]
    assert Selection(("cls",)).keep(rows).nonzero().tolist() == [[0, 0], [1, 0]]
    assert Selection(("cls", "patch")).keep(rows).all()
    assert not Selection(("register",)).keep(rows).any()


def test_last_is_the_last_row_that_is_not_padding():
    keep = Selection(("last",)).keep(texts([3, 5, 1], 5))
    assert keep.nonzero().tolist() == [[0, 2], [1, 4], [2, 0]]
    left_padded = texts([3, 5, 1], 5).flip(1)
    assert Selection(("last",)).keep(left_padded).nonzero().tolist() == [[0, 4], [1, 4], [2, 4]]


@settings(max_examples=50, deadline=None)
@given(
    samples=st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True),
    count=st.integers(1, 20),
    seed=st.integers(0, 2**31),
)
def test_subset_does_not_depend_on_the_batch(samples, count, seed):
    selection = Selection(("patch",), per_sample=count, seed=seed)
    together = selection.keep(grid(samples))
    assert together.sum(1).tolist() == [min(count, 16)] * len(samples)
    for b, sample in enumerate(samples):
        assert torch.equal(selection.keep(grid([sample]))[0], together[b])


def test_subset_is_uniform():
    """Over many samples every patch is drawn about equally often (5 sigma)."""
    n, count = 4000, 4
    drawn = Selection(("patch",), per_sample=count, seed=3).keep(grid(list(range(n))))[:, 1:].sum(0).numpy()
    p = count / 16
    assert np.abs(drawn - n * p).max() < 5 * np.sqrt(n * p * (1 - p))


def test_region_and_mean():
    rows = grid([0, 1])
    selection = Selection(pool=(1, 1, 3, 4))
    keep = selection.keep(rows)
    assert keep.sum(1).tolist() == [6, 6]
    x = torch.randn(2, 17, 5)
    x[0, 0] = float("nan")  # the cls row is not in the region and must not reach the mean
    expected = torch.stack([x[b, 1:].view(4, 4, 5)[1:3, 1:4].reshape(-1, 5).mean(0) for b in range(2)])
    torch.testing.assert_close(pooled_mean(x, keep), expected)
    table = pooled_rows(rows, keep)
    assert table[:, 0].tolist() == [0, 1]
    assert table[:, 1:4].eq(-1).all()
    assert table[:, TYPE].tolist() == [TOKEN_CODES["patch"]] * 2


def test_samples_that_keep_nothing_are_dropped_from_means():
    rows = texts([1, 4], 4)
    keep = Selection(("text",), pool="mean").keep(rows)
    x = torch.randn(2, 4, 3)
    assert pooled_mean(x, keep).shape == (1, 3)
    assert pooled_rows(rows, keep)[:, 0].tolist() == [1]


def test_capacity():
    assert Selection().capacity(50) == 50
    assert Selection(per_sample=8).capacity(50) == 8
    assert Selection(per_sample=80).capacity(50) == 50
    assert Selection(pool="mean").capacity(50) == 1
    assert Selection(("last",)).capacity(50) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"tokens": "patches"},
        {"tokens": "last,patch"},
        {"tokens": []},
        {"per_sample": 0},
        {"pool": "max"},
        {"pool": "1,2,3"},
        {"pool": (3, 0, 1, 4)},
        {"pool": "a,b,c,d"},
        {"pool": "mean", "per_sample": 3},
    ],
)
def test_unusable_selections_are_refused(bad):
    with pytest.raises(SelectionError, match="got"):
        Selection.parse(**bad)


def test_parse():
    assert Selection.parse("patch, cls").tokens == ("patch", "cls")
    assert Selection.parse(pool="0,1,2,3").pool == (0, 1, 2, 3)


def test_pooled_outputs_are_kept_whatever_the_tokens():
    rows = torch.full((2, 1, 8), -1, dtype=torch.int32)
    assert Selection(("patch",)).keep(rows).all()
