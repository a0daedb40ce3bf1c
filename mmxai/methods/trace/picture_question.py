"""A question about a picture to a multimodal language model: where in the picture, the words and the blocks
its answer comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mmxai.data.sample import Sample
from mmxai.errors import ArgumentError
from mmxai.methods.trace import answers, groups, spans
from mmxai.methods.trace.corrupting import Asked, corrupt
from mmxai.methods.trace.picture_maps import GRID, blocks_of, group_map, knockouts, named_groups, patch_map
from mmxai.methods.trace.question import KINDS, NAMES, Part, Question, Wanted, spans_of, window_of
from mmxai.methods.trace.text_question import about_window, metric_of, token_columns

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.models.model import Model


def picture_question(
    model: Model,
    image: Image.Image,
    text: str,
    *,
    answer: str,
    foil: str | None = None,
    asked: Asked,
    window: int | None = None,
    grid: int = GRID,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> Question:
    """What is said behind `text` about `image` (RGB): `answer` rather than `foil` (None: its probability).

    asked: what becomes of the picture in the corrupted run; its region is also the object whose patches are
    restored as a group, beside those around it, the background, and random ones. grid: most squares a side of
    the map over the picture. Maps are of the language tower, and of the vision tower in front of it.
    """
    pipeline = answers.texts_of(model)
    if not hasattr(model.feeds, "prompts"):
        raise ArgumentError(
            f"{model.name}: got a picture and a question, and a model that reads texts alone, expected a "
            "multimodal language model; leave the picture out, or of a CLIP give --texts"
        )
    sample = Sample("picture", image=image, text=text)
    tiles = model.encode(sample).tiles
    clean = model.prepare([sample])
    rows, seen = clean.rows["text"][0], clean.rows["vision"][0]
    corruption, shown = corrupt(model, image, clean, text, asked, tiles)
    metric, score = metric_of(pipeline, answers.prompt_of(model, text, True), answer, foil)
    words, last = groups.words(rows, pipeline.decode, text.strip()), spans.last(clean).mask[0]
    named, blocks = named_groups(rows, tiles, asked.where), blocks_of(model, "text")
    labels, each = token_columns(rows, pipeline)
    labels = [f"[{name}]" for name in named] + labels
    columns = spans_of([*named.values(), *each], labels, "text")
    order = torch.stack([s.mask[0] for s in columns]).int().argmax(1).argsort(stable=True).tolist()
    labels, columns = [labels[i] for i in order], [columns[i] for i in order]
    wanted = []
    for kind in kinds:
        wide = window_of(window, blocks, kind)
        title = f"{NAMES[kind]} at each token, text tower"
        about = about_window(kind, wide) + " In brackets: rows of the picture together."
        wanted.append(Wanted(title, about, "tokens", kind, columns, labels, blocks, wide))
    wanted.append(patch_map(model, "text", rows, grid))
    others = {"question": words & ~last, "last token": last}
    wanted.append(group_map(model, "text", rows, named, others, seed=seed))
    if asked.how != "drop":  # which happens behind the vision tower
        theirs = named_groups(seen, tiles, asked.where)
        wanted.append(patch_map(model, "vision", seen, grid))
        wanted.append(group_map(model, "vision", seen, theirs, {}, seed=seed))
    wide = window_of(window, blocks, "attention")
    wanted += knockouts(rows, named, words, last, blocks=blocks, window=wide, seed=seed)
    said = f"{text!r} \N{RIGHTWARDS ARROW} {answer!r}" + ("" if foil is None else f" rather than {foil!r}")
    return Question(
        model, said, score, [Part(clean, corruption, metric, wanted)], image, shown, asked.where, tiles
    )
