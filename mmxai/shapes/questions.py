"""Questions about a scene, with their answers: attribute, place, existence, count, relation."""

from __future__ import annotations

from dataclasses import dataclass

from mmxai.shapes.captions import prompt
from mmxai.shapes.facts import Facts, Phrase
from mmxai.shapes.rng import Choices
from mmxai.shapes.scene import ATTRIBUTES, OPPOSITE, Scene
from mmxai.shapes.words import ANY_SHAPE, NUMBERS, plural

KINDS = ("attribute", "place", "existence", "count", "relation")


@dataclass(frozen=True, slots=True)
class Question:
    """`facts`: the claim that the question asks about, None where the answer is a word of its own."""

    text: str
    answer: str
    kind: str
    facts: Facts | None = None


def questions(scene: Scene, key: int, index: int) -> list[Question]:
    """What can be asked of this scene: yes and no are equally likely, referents are unique."""
    choose = Choices(key, index)
    asked = [_existence(scene, choose), _count(scene, choose)]
    referents = ((k, referent(scene, k)) for k in range(len(scene.objects)))
    named = [(k, phrase) for k, phrase in referents if phrase is not None]
    if named:
        k, phrase = choose.pick(named)
        asked.append(attribute(scene, k, choose))
        asked.append(Question(f"where is the {in_words(phrase)} ?", scene.objects[k].place, "place"))
    if len(named) >= 2:
        one, two = choose.shuffled(named)[:2]
        asked.append(_relation(scene, one, two, choose))
    return asked


def referent(scene: Scene, k: int) -> Phrase | None:
    """The fewest words that mean object k alone: its shape, colour and shape, and so on."""
    thing, phrase = scene.objects[k], Phrase()
    for name in ("shape", "colour", "size", "fill"):
        phrase = phrase.saying(**{name: getattr(thing, name)})
        if sum(map(phrase.fits, scene.objects)) == 1:
            return phrase
    return None


def in_words(phrase: Phrase) -> str:
    """A referent without its article: "large red circle"."""
    return prompt(phrase.shape, phrase.colour, phrase.size, phrase.fill).split(" ", 1)[1]


def attribute(scene: Scene, k: int, choose: Choices) -> Question:
    """An attribute of an object named by others: "what colour is the large circle ?"."""
    thing = scene.objects[k]
    for asked in choose.shuffled(("colour", "size", "fill", "shape")):
        phrase = Phrase()
        for name in choose.shuffled([n for n in ("shape", "colour", "size", "fill") if n != asked]):
            phrase = phrase.saying(**{name: getattr(thing, name)})
            if sum(map(phrase.fits, scene.objects)) == 1:
                return Question(
                    f"what {asked} is the {in_words(phrase)} ?", getattr(thing, asked), "attribute"
                )
    return Question(f"what colour is the object at the {thing.place} ?", thing.colour, "attribute")


def _existence(scene: Scene, choose: Choices) -> Question:
    """A phrase of an object, or for "no" the same with its shape or colour changed to what is not there."""
    yes = choose.chance(1, 2) and bool(scene.objects)
    while True:
        if scene.objects:
            thing = choose.pick(scene.objects)
            phrase = Phrase(shape=thing.shape, colour=thing.colour)
        else:
            phrase = Phrase(shape=choose.pick(ATTRIBUTES["shape"]), colour=choose.pick(ATTRIBUTES["colour"]))
        if not yes:
            name = choose.pick(("shape", "colour"))
            phrase = phrase.saying(**{name: choose.pick(ATTRIBUTES[name])})
        if any(map(phrase.fits, scene.objects)) == yes:
            facts = Facts((phrase,))
            text = f"is there {prompt(phrase.shape, phrase.colour)} ?"
            return Question(text, "yes" if yes else "no", "existence", facts)


def _count(scene: Scene, choose: Choices) -> Question:
    name = choose.pick(("", "shape", "colour", "fill"))
    value = choose.pick(ATTRIBUTES[name]) if name else None
    if name and scene.objects and choose.chance(3, 4):
        value = getattr(choose.pick(scene.objects), name)
    phrase = Phrase().saying(**{name: value}) if name else Phrase()
    noun = plural(phrase.shape or ANY_SHAPE[0])
    words = " ".join(w for w in (phrase.fill, phrase.colour, noun) if w)
    number = sum(map(phrase.fits, scene.objects))
    facts = Facts((phrase.saying(number=number),))
    return Question(f"how many {words} are there ?", NUMBERS[number] if number else "none", "count", facts)


def _relation(scene: Scene, one: tuple[int, Phrase], two: tuple[int, Phrase], choose: Choices) -> Question:
    relation, yes = choose.pick(scene.relations(one[0], two[0])), choose.chance(1, 2)
    if not yes:
        relation = OPPOSITE[relation]
    text = f"is the {in_words(one[1])} {relation} the {in_words(two[1])} ?"
    return Question(text, "yes" if yes else "no", "relation", Facts((one[1], two[1]), ((0, relation, 1),)))
