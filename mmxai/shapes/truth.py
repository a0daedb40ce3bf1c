"""Which of many sentences are true of which of many scenes, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from mmxai.shapes.facts import Facts
from mmxai.shapes.scene import ATTRIBUTES, BACKGROUNDS, MAX_OBJECTS, RELATIONS, TONES, Scene

_ANY = -1


def truth(facts: Sequence[Facts], scenes: Sequence[Scene]) -> np.ndarray:
    """bool `[T, N]`: `facts[t].hold(scenes[n])`, some hundred times faster than asking one by one."""
    said, used, number, relation, ground, only = _of_facts(facts)
    things, present, related, grounds = _of_scenes(scenes)
    fits = used[:, None, :, None] & present[None, :, None, :]
    for column in range(len(ATTRIBUTES)):
        one, two = said[:, None, :, None, column], things[None, :, None, :, column]
        fits &= (one == _ANY) | (one == two)

    holds = np.zeros(fits.shape[:2], bool)
    first, name, second = relation.T
    for chosen in permutations(range(MAX_OBJECTS)):
        every = fits[:, :, range(MAX_OBJECTS), chosen] | ~used[:, None]
        objects = np.array(chosen)
        stands = related[:, objects[first], objects[second], name].T | (name == _ANY)[:, None]
        holds |= every.all(axis=2) & stands
    counted = (number != _ANY).any(axis=1)
    right = (fits.sum(axis=3) == number[:, None]) | ~used[:, None]
    holds = np.where(counted[:, None], right.all(axis=2), holds)

    for column in range(2):
        wanted = ground[:, column, None]
        holds &= (wanted == _ANY) | (wanted == grounds[None, :, column])
    return holds & ((only == _ANY)[:, None] | (only[:, None] == present.sum(axis=1)))


def _index(values: Sequence[str], value: str | None) -> int:
    return _ANY if value is None else values.index(value)


def _of_facts(facts: Sequence[Facts]) -> tuple[np.ndarray, ...]:
    n = len(facts)
    said = np.full((n, MAX_OBJECTS, len(ATTRIBUTES)), _ANY, np.int8)
    used, number = np.zeros((n, MAX_OBJECTS), bool), np.full((n, MAX_OBJECTS), _ANY)
    relation, ground, only = np.full((n, 3), _ANY), np.full((n, 2), _ANY), np.full(n, _ANY)
    for t, claim in enumerate(facts):
        for p, phrase in enumerate(claim.phrases):
            used[t, p] = True
            said[t, p] = [_index(values, getattr(phrase, name)) for name, values in ATTRIBUTES.items()]
            number[t, p] = _ANY if phrase.number is None else phrase.number
        for a, name, b in claim.relations:
            relation[t] = a, RELATIONS.index(name), b
        ground[t] = _index(BACKGROUNDS, claim.background), _index(TONES, claim.tone)
        if claim.only:
            only[t] = sum(phrase.number or 1 for phrase in claim.phrases)
    return said, used, number, relation, ground, only


def _of_scenes(scenes: Sequence[Scene]) -> tuple[np.ndarray, ...]:
    n = len(scenes)
    things, present = (
        np.zeros((n, MAX_OBJECTS, len(ATTRIBUTES)), np.int8),
        np.zeros((n, MAX_OBJECTS), bool),
    )
    related = np.zeros((n, MAX_OBJECTS, MAX_OBJECTS, len(RELATIONS)), bool)
    grounds = np.empty((n, 2), int)
    for i, scene in enumerate(scenes):
        grounds[i] = BACKGROUNDS.index(scene.background), TONES.index(scene.tone)
        for a, thing in enumerate(scene.objects):
            present[i, a] = True
            things[i, a] = [values.index(getattr(thing, name)) for name, values in ATTRIBUTES.items()]
            for b in range(len(scene.objects)):
                if a != b:
                    related[i, a, b, [RELATIONS.index(name) for name in scene.relations(a, b)]] = True
    return things, present, related, grounds
