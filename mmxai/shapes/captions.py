"""English sentences that are true of a scene, in many wordings, and the nearest false ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mmxai.shapes.facts import Facts, Phrase
from mmxai.shapes.rng import Choices
from mmxai.shapes.scene import ATTRIBUTES, Scene, Thing
from mmxai.shapes.words import (
    ANY_SHAPE,
    LEADS,
    NUMBERS,
    PLACE_WORDS,
    RELATION_WORDS,
    SYNONYMS,
    WITH_FILL,
    article,
    plural,
)

KINDS = ("full", "relation", "partial", "count", "background")


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence and what it claims.

    `unambiguous`: each of its phrases can only mean one object of the scene it was written for.
    `style` reproduces the wording: `say(facts, style)` is the text.
    """

    text: str
    kind: str
    facts: Facts
    unambiguous: bool
    style: int

    def __str__(self) -> str:
        return self.text


def say(facts: Facts, style: int) -> str:
    """Facts in words. The same style gives the same wording, whatever the facts."""
    choose = Choices(style, 0)
    lead = choose.pick(LEADS)
    if not facts.phrases and facts.background and not facts.only:
        return _ground(facts)
    parts = [_noun_phrase(phrase, choose) for phrase in facts.phrases]
    if facts.relations:
        ((_, relation, _),) = facts.relations
        body = f"{parts[0]} {_word(relation, choose, RELATION_WORDS)} {parts[1]}"
    elif facts.only and not parts:
        body = "nothing"
    else:
        body = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    ground = f" on {_ground(facts)}" if facts.background or facts.tone else ""
    return f"{lead} {body}{ground}".strip()


def _ground(facts: Facts) -> str:
    words = [w for w in (facts.tone, SYNONYMS.get(facts.background or "", (facts.background,))[0]) if w]
    return f"{article(words[0])} {' '.join(words)} background"


def _word(word: str, choose: Choices, table: dict[str, tuple[str, ...]] = SYNONYMS) -> str:
    """The usual word three times in four. Always spends two draws, so that wordings stay in step."""
    common, other = choose.chance(3, 4), choose.below(1 << 20)
    options = table.get(word, (word,))
    return options[0] if common or len(options) == 1 else options[1 + other % (len(options) - 1)]


def _noun_phrase(phrase: Phrase, choose: Choices) -> str:
    fill_after, fill_first = choose.chance(1, 4), choose.chance(2, 3)
    size = [_word(phrase.size or "", choose)] if phrase.size else []
    colour = [_word(phrase.colour or "", choose)] if phrase.colour else []
    any_shape = choose.pick(ANY_SHAPE)
    noun = _word(phrase.shape or "", choose) if phrase.shape else any_shape
    fill, tail = [_word(phrase.fill or "", choose)] if phrase.fill else [], ""
    if phrase.fill in WITH_FILL and fill_after:
        fill, tail = [], f" with {WITH_FILL[phrase.fill]}"
    words = size + (fill + colour if fill_first else colour + fill)
    if phrase.number is None or phrase.number == 1:
        words.append(noun)
        words.insert(0, article(words[0]) if phrase.number is None else "one")
    else:
        words = [NUMBERS[phrase.number], *words, plural(noun)]
    place = f" {_word(phrase.place, choose, PLACE_WORDS)}" if phrase.place else ""
    return " ".join(words) + tail + place


def full_facts(scene: Scene, choose: Choices) -> Facts:
    """Every attribute of every object, in a random order; the background half of the time."""
    phrases = tuple(_phrase(thing, tuple(ATTRIBUTES)) for thing in choose.shuffled(scene.objects))
    if choose.chance(1, 2):
        return Facts(phrases, background=scene.background, tone=scene.tone, only=not phrases)
    return Facts(phrases, only=not phrases)


def _phrase(thing: Thing, names: tuple[str, ...]) -> Phrase:
    return Phrase(**{name: getattr(thing, name) for name in names})


def _some(choose: Choices, sure: tuple[str, ...], maybe: tuple[str, ...]) -> tuple[str, ...]:
    return (*sure, *(name for name in maybe if choose.chance(1, 3)))


def _relation_facts(scene: Scene, choose: Choices) -> Facts | None:
    """Two objects, with colour and shape at least, and one true relation between them."""
    if len(scene.objects) < 2:
        return None
    a, b = choose.shuffled(range(len(scene.objects)))[:2]
    names = [_some(choose, ("colour", "shape"), ("size", "fill")) for _ in range(2)]
    one, two = _phrase(scene.objects[a], names[0]), _phrase(scene.objects[b], names[1])
    return Facts((one, two), ((0, choose.pick(scene.relations(a, b)), 1),))


def _partial_facts(scene: Scene, choose: Choices) -> Facts | None:
    """Some of the objects, some of their attributes."""
    if not scene.objects:
        return None
    chosen = choose.shuffled(scene.objects)[: 1 + choose.below(len(scene.objects))]
    names = ("shape", "colour", "size", "fill", "place")
    phrases = []
    for thing in chosen:
        sure = ("shape",) if choose.chance(5, 6) else (choose.pick(names[1:4]),)
        phrases.append(_phrase(thing, sure + tuple(n for n in _some(choose, (), names[1:]) if n not in sure)))
    return Facts(tuple(phrases))


def _background_facts(scene: Scene, choose: Choices) -> Facts:
    return Facts(background=scene.background, tone=scene.tone)


def _count_facts(scene: Scene, choose: Choices) -> Facts | None:
    """How many objects there are, of one kind or in all."""
    if not scene.objects:
        return None
    name, thing = choose.pick(("", "shape", "colour", "fill")), choose.pick(scene.objects)
    phrase = _phrase(thing, (name,)) if name else Phrase()
    return Facts((phrase.saying(number=sum(map(phrase.fits, scene.objects))),))


_MAKERS = (
    ("full", full_facts),
    ("full", full_facts),
    ("relation", _relation_facts),
    ("partial", _partial_facts),
    ("count", _count_facts),
    ("background", _background_facts),
)


def captions(scene: Scene, key: int, index: int, *, most: int = len(_MAKERS)) -> list[Caption]:
    """Up to six captions: full, full in other words, relation, partial, count, background.

    What does not apply (a relation of one object) is left out. `most`: stop after so many of the six.
    """
    out = []
    for turn, (kind, make) in enumerate(_MAKERS[:most]):
        choose = Choices(key + turn, index)
        facts = make(scene, choose)
        if facts is not None:
            style = choose.word()
            out.append(Caption(say(facts, style), kind, facts, facts.unambiguous(scene), style))
    return out


def swapped(given: Caption, scene: Scene) -> Iterator[tuple[str, Caption]]:
    """Hard negatives of a caption: (what was swapped, the same wording made false of the scene).

    "colour", "size", "fill", "shape": two phrases exchange that attribute; "relation": each relation
    becomes its opposite. Swaps that leave the sentence true are left out.
    """
    facts = given.facts
    changed: list[tuple[str, Facts]] = []
    for name in ("colour", "shape", "size", "fill"):
        for a in range(len(facts.phrases)):
            for b in range(a + 1, len(facts.phrases)):
                one, two = getattr(facts.phrases[a], name), getattr(facts.phrases[b], name)
                if one and two and one != two:
                    phrases = list(facts.phrases)
                    phrases[a], phrases[b] = (
                        phrases[a].saying(**{name: two}),
                        phrases[b].saying(**{name: one}),
                    )
                    changed.append((name, replace(facts, phrases=tuple(phrases))))
    mirrored = facts.mirrored()
    if mirrored is not None:
        changed.append(("relation", mirrored))
    for name, other in changed:
        if not other.hold(scene):
            yield name, replace(given, text=say(other, given.style), facts=other, unambiguous=False)


def prompt(
    shape: str | None = None,
    colour: str | None = None,
    size: str | None = None,
    fill: str | None = None,
    place: str | None = None,
) -> str:
    """A plain prompt for zero-shot classification: "a small striped red circle at the top"."""
    words = [w for w in (size, fill, colour, shape or ANY_SHAPE[0]) if w]
    where = f" {PLACE_WORDS[place][0]}" if place else ""
    return f"{article(words[0])} {' '.join(words)}{where}"
