"""Logical forms of concepts: (a OR b) AND NOT c."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mmxai.concepts import Concept
from mmxai.results import lines_of, number, plain

_SHOWN = 8


class Term(NamedTuple):
    """A concept or what is not of it, and how it is joined to the terms before it: by OR or (also the first)
    by AND."""

    concept: int
    negated: bool = False
    either: bool = False


Form = tuple[Term, ...]
"""Terms from left to right: a, then joined with b, and what that is with c."""


def canonical(form: Form) -> tuple:
    """The same of forms that say the same in another order: terms joined alike have none."""
    groups: list[list[Any]] = []  # an operator, and the literals it joins to what was before
    for place, term in enumerate(form):
        literal = (term.concept, term.negated)
        if place == 1 and groups:
            groups[0] = [term.either, groups[0][1] | {literal}]
        elif place == 0 or groups[-1][0] != term.either:
            groups.append([term.either, frozenset([literal])])
        else:
            groups[-1][1] |= {literal}
    return tuple((either, literals) for either, literals in groups)


def text(form: Form, concepts: Sequence[Concept]) -> str:
    """`red AND NOT square`; parentheses where operators differ."""
    out = ""
    for place, term in enumerate(form):
        own = ("NOT " if term.negated else "") + concepts[term.concept].name
        if not place:
            out = own
            continue
        if place > 1 and form[place - 1].either != term.either:
            out = f"({out})"
        out += (" OR " if term.either else " AND ") + own
    return out


@dataclass(frozen=True)
class Forms:
    """Of U units: `terms` int64 `[U, L]`, 4 concept + 2 negated + either (see `Term`), -1 behind a form's
    last and of units without any. iou float64 `[U]`: of the form; `single`: of the best single concept. Both
    are chosen on some of the pictures of `chosen` and scored on `pictures` pictures of `scored`."""

    terms: np.ndarray
    iou: np.ndarray
    single: np.ndarray
    pictures: int

    def __len__(self) -> int:
        return len(self.terms)

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "terms": self.terms, "iou": self.iou, "single": self.single, "pictures": np.array([self.pictures])
        }  # fmt: skip

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Forms:
        return cls(arrays["terms"], arrays["iou"], arrays["single"], int(arrays["pictures"][0]))

    @classmethod
    def joined(cls, parts: Sequence[Forms]) -> Forms | None:
        """Of one range of units after another; None of none."""
        if not parts:
            return None
        terms, iou, single = (
            np.concatenate([getattr(p, name) for p in parts]) for name in ("terms", "iou", "single")
        )
        return cls(terms, iou, single, parts[0].pictures)

    def form(self, unit: int) -> Form:
        return decode(self.terms[unit])

    def text(self, unit: int, concepts: Sequence[Concept]) -> str:
        """The form of a unit in words, "" where it has none."""
        return text(self.form(unit), concepts)

    def columns(self, concepts: Sequence[Concept], between: str) -> dict[str, Any]:
        """A column each for a table by unit: form, its IoU, that of a single concept."""
        told = [self.text(unit, concepts) for unit in range(len(self))]
        return {"form": told, f"form{between}iou": self.iou, f"form{between}single": self.single}

    def lines(self, concepts: Sequence[Concept], kind: str) -> list[str]:
        """The forms that gain most on a single concept."""
        longer = (self.terms >= 0).sum(1) > 1
        gain = self.iou - self.single
        head = (
            f"logical forms, on {self.pictures:,} pictures: mean IoU {number(_mean(self.iou))}, of single "
            f"concepts {number(_mean(self.single))}; {int((longer & (gain > 0)).sum()):,} units gain"
        )
        order = np.argsort(-np.where(longer, gain, -1), kind="stable")[: min(_SHOWN, int(longer.sum()))]
        rows = [
            (self.text(u, concepts), str(u), number(float(self.iou[u])), number(float(self.single[u])))
            for u in order.tolist()
        ]
        return [head, *([lines_of(("form", kind, "IoU", "single"), rows)] if rows else [])]

    def to_json(self, concepts: Sequence[Concept]) -> dict[str, Any]:
        return {"pictures": self.pictures, **{k: plain(v) for k, v in self.columns(concepts, "_").items()}}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def encode(form: Form, length: int) -> np.ndarray:
    """int64 `[length]`."""
    out = np.full(length, -1)
    out[: len(form)] = [4 * t.concept + 2 * t.negated + t.either for t in form]
    return out


def decode(terms: np.ndarray) -> Form:
    return tuple(Term(int(t) // 4, bool(t & 2), bool(t & 1)) for t in terms if t >= 0)
