"""What else can be asked of a scene: questions that lead over a second object, and a plain description."""

from __future__ import annotations

from collections.abc import Iterator

from mmxai.shapes.captions import prompt
from mmxai.shapes.questions import Question, attribute, in_words, referent
from mmxai.shapes.rng import Choices
from mmxai.shapes.scene import Scene
from mmxai.shapes.words import ANY_SHAPE

PLACED = ("above", "below", "left of", "right of")
"""The relations of places; by overlap alone ("behind") an object is not asked for."""

ASKED = ("colour", "size", "fill", "shape")
DESCRIBE = "describe the picture"


def relatives(scene: Scene) -> list[tuple[int, str, int]]:
    """(a, relation, b): a is the only object that stands so to b, and b can be named."""
    every = range(len(scene.objects))
    found = []
    for b in (k for k in every if referent(scene, k) is not None):
        for relation in PLACED:
            standing = [a for a in every if a != b and relation in scene.relations(a, b)]
            if len(standing) == 1:
                found.append((standing[0], relation, b))
    return found


def relative(scene: Scene, a: int, relation: str, b: int, asked: str, noun: str) -> Question:
    """ "what colour is the shape above the square ?", for one of `relatives`."""
    phrase = referent(scene, b)
    assert phrase is not None, "relatives holds only objects that can be named"
    text = f"what {asked} is the {noun} {relation} the {in_words(phrase)} ?"
    return Question(text, getattr(scene.objects[a], asked), "relative")


def relative_questions(scene: Scene, choose: Choices, most: int) -> Iterator[Question]:
    """Up to `most` of them, each over another pair or relation."""
    for a, relation, b in choose.shuffled(relatives(scene))[:most]:
        asked = choose.pick(ASKED)
        noun = choose.pick([n for n in ANY_SHAPE if n != asked])
        yield relative(scene, a, relation, b, asked, noun)


def named_questions(scene: Scene, choose: Choices, most: int) -> Iterator[Question]:
    """Up to `most` questions on one object each, which its name alone tells from the others."""
    every = choose.shuffled(range(len(scene.objects)))
    for turn in range(most):
        k = every[turn % len(every)]
        phrase = referent(scene, k)
        if phrase is not None and choose.chance(1, 3):
            yield Question(f"where is the {in_words(phrase)} ?", scene.objects[k].place, "place")
        else:
            yield attribute(scene, k, choose)


def description(scene: Scene) -> Question:
    """Every object with all its attributes, as one reads: from the top, from the left."""
    things = sorted(scene.objects, key=lambda thing: (thing.row, thing.column))
    parts = [prompt(t.shape, t.colour, t.size, t.fill, t.place) for t in things]
    text = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return Question(DESCRIBE, text, "caption")
