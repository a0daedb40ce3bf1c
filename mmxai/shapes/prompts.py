"""Short sentences that training asks of every picture: single attributes, pairs of them, one relation."""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

from mmxai.shapes.facts import Facts, Phrase
from mmxai.shapes.rng import Choices
from mmxai.shapes.scene import ATTRIBUTES, Scene
from mmxai.shapes.words import MIDDLE_WORDS

_SIDES = ("above", "below", "left of", "right of")
_NAMES = ("shape", "colour", "fill")
_PAIRED = ("shape", "colour", "size", "fill")


@cache
def prompts() -> tuple[Facts, ...]:
    """Facts of "a circle", "a red thing", "an object at the top", "a striped circle" and so on.

    Every attribute and every pair of shape, colour, size and fill, but those that are held out.
    """
    single = [Phrase().saying(**{name: value}) for name, values in ATTRIBUTES.items() for value in values]
    pairs = [
        Phrase().saying(**{one: x, two: y})
        for one, two in combinations(_PAIRED, 2)
        for x, y in product(ATTRIBUTES[one], ATTRIBUTES[two])
    ]
    return tuple(Facts((phrase,)) for phrase in single + pairs if not phrase.held_out)


@cache
def place_prompts() -> tuple[Facts, ...]:
    """Facts of "a red thing at the top": any object, and every shape, colour and fill, in every place."""
    named = (Phrase(), *_named())
    return tuple(Facts((phrase.saying(place=place),)) for phrase in named for place in ATTRIBUTES["place"])


@cache
def middle_prompts() -> tuple[tuple[Facts, str, Facts], ...]:
    """ "A red thing above the middle": facts of "a red thing", the words that follow, facts of the whole.

    A picture has things above and below others whatever is said of it, so the words of relations tell
    nothing until they go with a name, and a model may stay blind to them for long. Here they say a place.
    """
    return tuple(
        (Facts((phrase,)), words, Facts((phrase.saying(place=place),)))
        for phrase in (Phrase(), *_named())
        for place, words in MIDDLE_WORDS.items()
    )


def _named() -> list[Phrase]:
    return [Phrase().saying(**{name: v}) for name in _NAMES for v in ATTRIBUTES[name]]


@cache
def relation_prompts() -> tuple[Facts, ...]:
    """ "a red thing above an object": where an object stands to any other, for every shape, colour and fill.

    Of two named objects a model learns the names and may stay blind to the order for long: the two ways
    round differ in nothing that either name alone tells. Here one name tells.
    """
    return tuple(Facts((phrase, Phrase()), ((0, relation, 1),)) for phrase in _named() for relation in _SIDES)


def short_relation(scene: Scene, choose: Choices) -> Facts | None:
    """Two objects named by an attribute each, and a true relation: "a red thing above a star"."""
    if len(scene.objects) < 2:
        return None
    a, b = choose.shuffled(range(len(scene.objects)))[:2]
    named = []
    for k in (a, b):
        name = choose.pick(_NAMES)
        named.append(Phrase().saying(**{name: getattr(scene.objects[k], name)}))
    return Facts(tuple(named), ((0, choose.pick(scene.relations(a, b)), 1),))
