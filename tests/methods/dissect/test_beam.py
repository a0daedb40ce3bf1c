"""Forms and their areas against every form there is, pixel by pixel."""

import itertools

import numpy as np
import pytest

from mmxai.concepts import Concept, ImageLabels
from mmxai.methods.dissect.atoms import Atoms, pieces_of
from mmxai.methods.dissect.beam import Search
from mmxai.methods.dissect.forms import Term, canonical, decode, encode, text

CONCEPTS, GRID, SHAPE = 5, (3, 4), (13, 10)
NAMES = [Concept(name, "all", k) for k, name in enumerate(("red", "green", "square", "circle", "sky"))]


def pictures(count, seed=0):
    """Label maps of two layers that repeat one another at times, and pixels that lie in no cell."""
    draw = np.random.default_rng(seed)
    rows = np.repeat([-1, 0, 1, 2], [2, 4, 4, 3]).astype(np.int32)
    cols = np.repeat([0, 1, 2, 3], [3, 2, 3, 2]).astype(np.int32)
    for _ in range(count):
        maps = draw.integers(-1, 4, (2, *SHAPE)).astype(np.int32)
        maps[1, :, ::3] = maps[0, :, ::3]
        whole = np.array([4] if draw.random() < 0.4 else [], np.int64)
        yield ImageLabels(maps, whole, np.ones(1, bool)), rows, cols


def known(count, seed=0, missing=()):
    """Atoms, and pixel by pixel the cell int64 `[N]` and what a pixel has, bool `[N, C]`."""
    pieces, cells, have = [], [], []
    for number, (labels, rows, cols) in enumerate(pictures(count, seed)):
        grid = 12 * number + np.arange(12).reshape(GRID)
        grid[np.isin(grid, missing)] = -1
        pieces.append(pieces_of(labels, rows, cols, grid))
        for y, x in itertools.product(range(SHAPE[0]), range(SHAPE[1])):
            if rows[y] >= 0 and grid[rows[y], cols[x]] >= 0:
                there = np.zeros(CONCEPTS, bool)
                there[labels.maps[:, y, x][labels.maps[:, y, x] >= 0]] = True
                there[labels.whole] = True
                cells.append(grid[rows[y], cols[x]])
                have.append(there)
    return Atoms.joined(pieces, CONCEPTS, 12 * count), np.array(cells), np.array(have)


def holds(form, have):
    out = None
    for concept, negated, either in form:
        own = have[:, concept] ^ negated
        out = own if out is None else out | own if either else out & own
    return out


def every_form(length):
    kinds = ((False, False), (False, True), (True, False))  # AND, OR, AND NOT
    terms = [Term(c, n, e) for c in range(CONCEPTS) for n, e in kinds]
    first = [Term(c) for c in range(CONCEPTS)]
    for n in range(1, length + 1):
        for form in itertools.product(first, *[terms] * (n - 1)):
            if len({t.concept for t in form}) == n:
                yield form


def iou(mask, own):
    return (mask & own).sum() / max(1, (mask | own).sum())


def test_areas_are_those_of_every_pixel():
    atoms, cell, have = known(6, missing=(3, 17, 40))
    assert atoms.total == len(cell) and np.array_equal(atoms.truth, have.sum(0))
    assert len(atoms.cell) < len(cell) and not np.isin((3, 17, 40), atoms.cell).any()
    draw = np.random.default_rng(1)
    search = Search(atoms, 3)
    mask = draw.random(72) < 0.3
    for form in list(every_form(3))[::37]:
        own = holds(form, have)
        assert atoms.area(form) == own.sum()
        assert np.array_equal(atoms.beside(form), (have & own[:, None]).sum(0))
        assert search.iou(mask, form) == pytest.approx(iou(mask[cell], own), abs=1e-15)
    kept = draw.random(72) < 0.5
    some = atoms.within(kept)
    assert some.total == kept[cell].sum() and np.array_equal(some.truth, have[kept[cell]].sum(0))
    form = (Term(0), Term(2, True), Term(4, False, True))
    assert some.area(form) == holds(form, have)[kept[cell]].sum()


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_the_form_found_is_the_best_of_all(share):
    """A beam that holds all forms finds what trying all of them does; the usual one no better, and never less
    than a single concept."""
    atoms, cell, have = known(4)
    draw = np.random.default_rng(2)
    for _ in range(4):
        mask = draw.permutation(48) < share * 48
        scored = {form: iou(mask[cell], holds(form, have)) for form in every_form(3)}
        best = max(scored.values())
        form, alone = Search(atoms, 3, beam=400).best(mask)
        assert scored[form] == pytest.approx(best) and len(form) <= 3
        single = max(v for f, v in scored.items() if len(f) == 1)
        assert scored[alone] == pytest.approx(single)
        narrow, _ = Search(atoms, 3, beam=2).best(mask)
        assert single <= scored[narrow] <= best + 1e-12
        two, _ = Search(atoms, 2, beam=400).best(mask)
        assert scored[two] == pytest.approx(max(v for f, v in scored.items() if len(f) <= 2))


def test_a_form_that_is_the_mask_is_found():
    """One pixel a cell: masks are forms exactly, also of concepts that the mask never touches."""
    draw = np.random.default_rng(3)
    have = draw.random((400, CONCEPTS)) < 0.4
    starts = np.concatenate([[0], have.sum(1).cumsum()])
    ones = np.ones(400, np.int64)
    atoms = Atoms(np.arange(400), ones, starts, np.nonzero(have)[1].astype(np.int32), CONCEPTS, 400)
    for form, beam in (
        ((Term(0), Term(2, True)), 10),
        ((Term(1), Term(0, True), Term(3, True)), 10),
        ((Term(0), Term(1, False, True), Term(3, True)), 10),
        ((Term(0), Term(1), Term(4, False, True)), 100),  # "0 AND 1" is far from the mask
    ):
        mask, search = holds(form, have), Search(atoms, 3, beam)
        found, alone = search.best(mask)
        assert search.iou(mask, found) == 1 and len(found) == len(form)
        assert canonical(found) == canonical(form) and search.iou(mask, alone) < 1
    assert search.best(np.zeros(400, bool)) == ((), ()) and search.iou(np.zeros(400, bool), ()) == 0


def test_forms_that_say_the_same_are_one():
    _, _, have = known(3)
    groups = {}
    for form in every_form(3):
        groups.setdefault(canonical(form), []).append(holds(form, have).tobytes())
    assert all(len(set(held)) == 1 for held in groups.values())
    assert max(len(held) for held in groups.values()) == 6
    assert canonical((Term(0), Term(1))) != canonical((Term(0), Term(1, False, True)))


def test_forms_in_words_and_numbers():
    red_or = (Term(0), Term(1, False, True), Term(2, True))
    assert text((Term(0), Term(2, True)), NAMES) == "red AND NOT square"
    assert text(red_or, NAMES) == "(red OR green) AND NOT square"
    assert text((Term(0, True), Term(1), Term(2)), NAMES) == "NOT red AND green AND square"
    assert text((Term(0), Term(1), Term(2, False, True)), NAMES) == "(red AND green) OR square"
    assert text((), NAMES) == ""
    assert decode(encode(red_or, 3)) == red_or and decode(encode((), 3)) == ()
