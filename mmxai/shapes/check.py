"""Reads a sentence of the world's English back into facts, without knowing how it was made."""

from __future__ import annotations

import re

from mmxai.errors import ArgumentError
from mmxai.shapes.facts import Facts, Phrase
from mmxai.shapes.scene import ATTRIBUTES, BACKGROUNDS, TONES, Scene
from mmxai.shapes.words import (
    ANY_SHAPE,
    LEADS,
    MIDDLE_WORDS,
    NUMBERS,
    PLACE_WORDS,
    RELATION_WORDS,
    SYNONYMS,
    WITH_FILL,
    plural,
)

_CANONICAL = {way: word for word, ways in SYNONYMS.items() for way in ways}
_WORDS = {name: set(values) for name, values in ATTRIBUTES.items()}
_SINGULAR = {plural(noun): noun for s in ATTRIBUTES["shape"] for noun in SYNONYMS.get(s, (s,))}
_SINGULAR |= {plural(noun): noun for noun in ANY_SHAPE}
_PLACES = {place: (*ways, *filter(None, [MIDDLE_WORDS.get(place)])) for place, ways in PLACE_WORDS.items()}
_GROUND = re.compile(r"(?:on )?an? (?:(dark|light) )?(?:(plain|gradient|noisy|noise) )?background$")


def _alternatives(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """(words, meaning), the longest first, so that "at the top left" is not read as "at the top"."""
    return sorted(((way, word) for word, ways in table.items() for way in ways), key=lambda p: -len(p[0]))


def parse(text: str) -> Facts:
    """The facts that a caption claims. ArgumentError where a word or its order is not understood."""
    body = text.strip()
    for lead in sorted(filter(None, LEADS), key=len, reverse=True):
        body = body.removeprefix(lead + " ")
    background = tone = None
    ground = _GROUND.search(body)
    if ground:
        tone, kind = ground.groups()
        background = _CANONICAL.get(kind, kind) if kind else None
        if tone not in (None, *TONES) or background not in (None, *BACKGROUNDS):
            raise ArgumentError(f"caption {text!r}: got background {ground.group()!r}, expected a known kind")
        body = body[: ground.start()].strip()
    if not body:
        return Facts(background=background, tone=tone)
    if body == "nothing":
        return Facts(background=background, tone=tone, only=True)
    for words, relation in _alternatives(RELATION_WORDS):
        left, found, right = body.partition(f" {words} ")
        if found and right != "the middle":
            return Facts((_phrase(left, text), _phrase(right, text)), ((0, relation, 1),), background, tone)
    parts = re.split(r", | and ", body)
    return Facts(tuple(_phrase(part, text) for part in parts), (), background, tone)


def _phrase(part: str, text: str) -> Phrase:
    found: dict[str, str] = {}
    for words, place in _alternatives(_PLACES):
        if part.endswith(" " + words):
            found["place"], part = place, part.removesuffix(" " + words)
            break
    for fill, words in WITH_FILL.items():
        if part.endswith(" with " + words):
            found["fill"], part = fill, part.removesuffix(" with " + words)
    first, *rest = part.split()
    if first not in ("a", "an", *NUMBERS) or not rest:
        raise ArgumentError(f"caption {text!r}: got {part!r}, expected a noun phrase such as 'a red circle'")
    number = NUMBERS.index(first) if first in NUMBERS else None
    *adjectives, noun = rest
    noun = _SINGULAR.get(noun, noun)
    for word in adjectives if noun in ANY_SHAPE else [*adjectives, noun]:
        meaning = _CANONICAL.get(word, word)
        names = [name for name, values in _WORDS.items() if meaning in values]
        if len(names) != 1 or names[0] in found or (names[0] == "shape") != (word == noun):
            raise ArgumentError(
                f"caption {text!r}: got word {word!r} in {part!r}, expected known words, each once"
            )
        found[names[0]] = meaning
    return Phrase(**found, number=number)


def true_of(text: str, scene: Scene) -> bool:
    """Is the caption true of the scene?"""
    return parse(text).hold(scene)
