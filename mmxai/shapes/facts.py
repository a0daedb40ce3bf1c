"""What a sentence claims, and whether a scene makes it true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from mmxai.shapes.scene import ATTRIBUTES, HELD_OUT, OPPOSITE, Scene, Thing


@dataclass(frozen=True, slots=True)
class Phrase:
    """One noun phrase. None: not said. `number` None: "a ..." (at least one); a number: exactly so many."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    fill: str | None = None
    place: str | None = None
    number: int | None = None

    def fits(self, thing: Thing) -> bool:
        """Does the thing have every attribute said?"""
        said = ((name, getattr(self, name)) for name in ATTRIBUTES)
        return all(value is None or getattr(thing, name) == value for name, value in said)

    def saying(self, **attributes: Any) -> Phrase:
        """The phrase with some attributes said otherwise."""
        return replace(self, **attributes)

    @property
    def held_out(self) -> bool:
        """Does it name a pair of attributes that the training split has not?"""
        return any(
            (getattr(self, one), getattr(self, two)) == (ATTRIBUTES[one][x], ATTRIBUTES[two][y])
            for (one, two), pairs in HELD_OUT.items()
            for x, y in pairs
        )

    @property
    def complete(self) -> bool:
        return all(getattr(self, name) is not None for name in ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Facts:
    """The claims of one sentence.

    Phrases without a number speak of different objects. `relations`: (phrase, relation, phrase).
    `only`: there is nothing else in the picture.
    """

    phrases: tuple[Phrase, ...] = ()
    relations: tuple[tuple[int, str, int], ...] = ()
    background: str | None = None
    tone: str | None = None
    only: bool = False

    def assignments(self, scene: Scene) -> Iterator[tuple[int, ...]]:
        """Every way to give the phrases different objects so that the phrases and relations hold."""
        for chosen in permutations(range(len(scene.objects)), len(self.phrases)):
            fits = all(p.fits(scene.objects[k]) for p, k in zip(self.phrases, chosen, strict=True))
            if fits and all(r in scene.relations(chosen[a], chosen[b]) for a, r, b in self.relations):
                yield chosen

    def hold(self, scene: Scene) -> bool:
        """Is every claim true of the scene?"""
        if self.background not in (None, scene.background) or self.tone not in (None, scene.tone):
            return False
        if self.only and len(scene.objects) != sum(p.number or 1 for p in self.phrases):
            return False
        if any(p.number is not None for p in self.phrases):
            return all(sum(map(p.fits, scene.objects)) == p.number for p in self.phrases)
        return next(self.assignments(scene), None) is not None

    def unambiguous(self, scene: Scene) -> bool:
        """True of the scene, of at least one object, and in exactly one way."""
        if not self.phrases or any(p.number is not None for p in self.phrases) or not self.hold(scene):
            return False
        return len(list(self.assignments(scene))) == 1

    @property
    def held_out(self) -> bool:
        """Does a phrase name a pair of attributes that the training split has not?"""
        return any(phrase.held_out for phrase in self.phrases)

    def mirrored(self) -> Facts | None:
        """The same words with every relation turned into its opposite; None without a relation."""
        if not self.relations:
            return None
        turned = tuple((a, OPPOSITE[r], b) for a, r, b in self.relations)
        return Facts(self.phrases, turned, self.background, self.tone, self.only)
