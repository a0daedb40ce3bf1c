"""The logical form of concepts that fits a mask best, by beam search (Mu and Andreas 2020, arXiv:2006.14032).

Forms begin with a concept and grow by one at a time, with AND, OR and AND NOT, from the best of the last
length. (What begins with NOT, or has OR NOT, is nearly everywhere: it fits every large mask, and tells
nothing of it.) Every concept is tried, not only those that the mask touches: what it never touches is what
NOT is for. All areas are exact: of a form F and a concept c, beside a mask M, those of the three new forms
follow from those of F, of c, and of both at once, within M and in all.
"""

from __future__ import annotations

import numpy as np

from mmxai.methods.dissect import measures
from mmxai.methods.dissect.atoms import Atoms
from mmxai.methods.dissect.forms import Form, Term, canonical

BEAM = 10

_AGAIN = 6
"""A form of three terms comes in at most so many orders."""


class Search:
    """Forms for masks over the same atoms."""

    def __init__(self, atoms: Atoms, length: int, beam: int = BEAM):
        self.atoms, self.length, self.beam = atoms, length, beam

    def best(self, mask: np.ndarray) -> tuple[Form, Form]:
        """Of a mask, bool `[cells]`: the form of highest IoU (of equal ones the shortest), and that of one
        concept. Empty where the mask has no pixel of a concept."""
        atoms = self.atoms
        own = np.flatnonzero(mask[atoms.cell])
        held = _Mask(atoms, own)
        if not held.area:
            return (), ()
        first = found = self._first(held)
        best = found[:1]
        for _ in range(1, self.length):
            found = self._longer(held, [form for _, form in found])
            if found and found[0][0] > best[0][0]:
                best = found[:1]
        return (best[0][1], first[0][1]) if best else ((), ())

    def _first(self, held: _Mask) -> list[tuple[float, Form]]:
        iou = held.iou(held.beside, self.atoms.truth)
        order = np.argsort(-iou, kind="stable")[: self.beam].tolist()
        return [(float(iou[c]), (Term(c),)) for c in order if iou[c] > 0]

    def _longer(self, held: _Mask, forms: list[Form]) -> list[tuple[float, Form]]:
        """The best that come of `forms` and one concept more."""
        if not forms:
            return []
        atoms, truth, mine = self.atoms, self.atoms.truth, held.beside
        iou = np.zeros((len(forms), 3, atoms.concepts))
        for own, form in zip(iou, forms, strict=True):
            there = atoms.of(form)
            inside, area = held.within(there), int(atoms.pixels[there].sum())
            both, beside = held.pixels_of(there), atoms.beside(form)
            # By 2 negated + either, as terms are.
            inter = np.stack([both, inside + mine - both, inside - both])
            areas = np.stack([beside, area + truth - beside, area - beside])
            own[:] = held.iou(inter, areas)
            own[(inter == inside) & (areas == area)] = 0  # it changes nothing
            own[:, truth == 0] = 0
            own[:, [term.concept for term in form]] = 0
        flat = iou.ravel()
        most = min(_AGAIN * self.beam, len(flat))
        order = np.argpartition(-flat, most - 1)[:most]
        order = order[np.lexsort((order, -flat[order]))]
        found: dict[tuple, tuple[float, Form]] = {}
        for place in order[flat[order] > 0]:
            which, kind, concept = (int(i) for i in np.unravel_index(place, iou.shape))
            form = (*forms[which], Term(concept, bool(kind & 2), bool(kind & 1)))
            found.setdefault(canonical(form), (float(flat[place]), form))
            if len(found) == self.beam:
                break
        return list(found.values())

    def iou(self, mask: np.ndarray, form: Form) -> float:
        """Of a mask, bool `[cells]`, with a form."""
        atoms = self.atoms
        if not form:
            return 0.0
        there, own = atoms.of(form), mask[atoms.cell]
        inter, union = (int(atoms.pixels[x].sum()) for x in (there & own, there | own))
        return float(measures.ratio(inter, union))


class _Mask:
    """A mask, by its atoms `own` int64: pixels in all (`area`) and of each concept (`beside` int64 `[C]`)."""

    def __init__(self, atoms: Atoms, own: np.ndarray):
        self.own, self._pixels = own, atoms.pixels[own]
        self._concepts = atoms.concepts
        entries, sizes = atoms.entries(own)
        self._concept = atoms.concept[entries]
        self._row = np.repeat(np.arange(len(own)), sizes)
        self.area = int(self._pixels.sum())
        self.beside = self._summed(self._pixels)

    def _summed(self, pixels: np.ndarray) -> np.ndarray:
        found = np.bincount(self._concept, pixels[self._row], minlength=self._concepts)
        return found.astype(np.int64)

    def pixels_of(self, there: np.ndarray) -> np.ndarray:
        """What of each concept is in the mask and among the atoms `there`, bool `[A]`: int64 `[C]`."""
        return self._summed(self._pixels * there[self.own])

    def within(self, there: np.ndarray) -> int:
        return int(self._pixels[there[self.own]].sum())

    def iou(self, inter: np.ndarray, area: np.ndarray) -> np.ndarray:
        return measures.iou(inter, self.area, area)
