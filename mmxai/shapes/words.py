"""The vocabulary of the world's English: synonyms, plurals, connecting words."""

from __future__ import annotations

SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus"),
    "moon": ("moon", "crescent"),
    "purple": ("purple", "violet"),
    "small": ("small", "little"),
    "large": ("large", "big"),
    "solid": ("solid", "filled"),
    "dotted": ("dotted", "spotted"),
    "outlined": ("outlined", "hollow"),
    "noise": ("noisy", "noise"),
}
"""The first word of each is the usual one. A word not here has no synonym."""

ANY_SHAPE = ("object", "thing", "shape")
WITH_FILL = {"striped": "stripes", "dotted": "dots"}
NUMBERS = ("no", "one", "two", "three")

PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "top left": ("at the top left", "in the top left corner", "in the upper left"),
    "top": ("at the top", "in the top middle"),
    "top right": ("at the top right", "in the top right corner", "in the upper right"),
    "left": ("on the left", "at the left edge"),
    "centre": ("in the centre", "in the middle"),
    "right": ("on the right", "at the right edge"),
    "bottom left": ("at the bottom left", "in the bottom left corner", "in the lower left"),
    "bottom": ("at the bottom", "in the bottom middle"),
    "bottom right": ("at the bottom right", "in the bottom right corner", "in the lower right"),
}

MIDDLE_WORDS = {
    "top": "above the middle",
    "bottom": "below the middle",
    "left": "left of the middle",
    "right": "right of the middle",
}
"""Places in the words of relations: captions never use them, training prompts do."""

RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "in front of": ("in front of", "partly covering"),
    "behind": ("behind", "partly covered by"),
}

LEADS = ("", "", "a picture of", "an image of", "we see", "this shows")


def plural(noun: str) -> str:
    """The plural of a noun of this vocabulary."""
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def article(word: str) -> str:
    """ "a" or "an" before a word."""
    return "an" if word[0] in "aeiou" else "a"


def all_words() -> list[str]:
    """Every word that a caption or a question can hold, sorted; commas and question marks included."""
    from mmxai.shapes.scene import BACKGROUNDS, COLOURS, FILLS, PLACES, SHAPES, SIZES, TONES

    words = {",", "?", "yes", "no", "none"}
    plain = (*SHAPES, *COLOURS, *SIZES, *FILLS, *BACKGROUNDS, *TONES)
    phrases = [w for word in plain for w in (word, *SYNONYMS.get(word, ()))]
    nouns = [w for shape in SHAPES for w in SYNONYMS.get(shape, (shape,))] + list(ANY_SHAPE)
    phrases += [plural(noun) for noun in nouns] + list(ANY_SHAPE) + list(WITH_FILL.values()) + list(NUMBERS)
    phrases += [p for ways in (PLACE_WORDS, RELATION_WORDS) for group in ways.values() for p in group]
    phrases += [*PLACES, *LEADS, "a an and with on the background nothing are there is in"]
    phrases += ["what which colour size fill shape where how many it picture only left right of"]
    return sorted(words | {w for p in phrases for w in p.split()})
