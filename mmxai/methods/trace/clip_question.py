"""A picture and texts to a CLIP: which patches and which words make it like one text more than another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from mmxai.data.sample import Sample
from mmxai.errors import ArgumentError
from mmxai.methods.trace import groups, spans
from mmxai.methods.trace.corrupting import Asked, corrupt
from mmxai.methods.trace.corruptions import Counterfactual
from mmxai.methods.trace.picture_maps import GRID, blocks_of, group_map, named_groups, patch_map
from mmxai.methods.trace.question import KINDS, NAMES, Part, Question, Wanted, spans_of, window_of
from mmxai.methods.trace.text_question import about_window, token_columns
from mmxai.models.metrics import embedded
from mmxai.models.near_texts import embed_texts

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.models.inputs import Inputs
    from mmxai.models.model import Model, Run


class Towards:
    """Cosine of what one tower embeds with a vector, less that with another where there is one.

    vectors: float `[1 or 2, J]`, embedded texts (or a picture, of the text tower).
    """

    name = "cosine"

    def __init__(self, vectors: torch.Tensor, site: str = "vision.embeds"):
        self.vectors, self.needs = normalize(vectors.float(), dim=1), (site,)

    def __call__(self, run: Run, inputs: Inputs) -> torch.Tensor:
        own = embedded(run, self.needs[0])
        cosines = own @ self.vectors.to(own.device).T
        return cosines[:, 0] - cosines[:, 1] if len(self.vectors) == 2 else cosines[:, 0]


def clip_question(
    model: Model,
    image: Image.Image,
    texts: Sequence[str],
    *,
    asked: Asked,
    window: int | None = None,
    grid: int = GRID,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> Question:
    """The cosine of `image` (RGB) with the first text, less that with the second where there is one.

    In the vision tower the picture is corrupted as `asked`, and patches' states are restored; the later
    blocks read all patches, so that there is no order of rows. In the text tower the second text is the
    corrupted first, where both have as many tokens.
    """
    texts = list(texts)
    if not 1 <= len(texts) <= 2 or len(set(texts)) < len(texts):
        raise ArgumentError(f"--texts: got {texts}, expected one text, or two that differ")
    if not {"vision.embeds", "text.embeds"} <= set(model.sites()):
        raise ArgumentError(
            f"{model.name}: got texts to compare a picture with, no joint space of both, expected a CLIP; "
            "of a multimodal language model give a question and --answer"
        )
    sample = Sample("picture", image=image)
    tiles, clean = model.encode(sample).tiles, model.prepare([sample])
    rows = clean.rows["vision"][0]
    corruption, shown = corrupt(model, image, clean, None, asked, tiles)
    named = named_groups(rows, tiles, asked.where)
    start = groups.of_types(rows, "cls", "register")
    others = {"class token": start} if bool(start.any()) else {}
    wanted = [patch_map(model, "vision", rows, grid)]
    for kind in kinds:
        wide = window_of(window, blocks_of(model, "vision"), kind)
        wanted.append(group_map(model, "vision", rows, named, others, kind=kind, window=wide, seed=seed))
    metric = Towards(embed_texts(model, texts))
    parts, notes = [Part(clean, corruption, metric, wanted)], []
    if len(texts) == 2:
        part = _words(model, clean, texts, kinds, window)
        parts += [] if part is None else [part]
        if part is None:
            notes.append(
                "No maps of the text tower: the two texts have different numbers of tokens, and states are "
                "exchanged token by token."
            )
    score = f"cosine with {texts[0]!r}" + (f" less that with {texts[1]!r}" if len(texts) == 2 else "")
    return Question(
        model, f"the picture's {score}", score, parts, image, shown, asked.where, tiles, notes=notes
    )


def _words(
    model: Model, picture: Inputs, texts: Sequence[str], kinds: Sequence[str], window: int | None
) -> Part | None:
    """The second text with states of the first, by its cosine with the picture; None of unequal lengths."""
    one, two = (model.prepare([t]) for t in texts)
    pipeline = model.feeds.texts("text")
    lengths = [int(spans.real(i)[0].sum()) for i in (one, two)]
    if pipeline is None or lengths[0] != lengths[1]:
        return None
    vector = model.run(picture, capture=["vision.embeds"], stop=True).acts["vision.embeds"][:, 0]
    labels, each = token_columns(one.rows["text"][0], pipeline)
    columns, blocks, wanted = spans_of(each, labels, "text"), blocks_of(model, "text"), []
    for kind in kinds:
        wide = window_of(window, blocks, kind)
        about = (
            f"The text {texts[1]!r} with states of {texts[0]!r}: 1 is as like the picture as the first text. "
            + about_window(kind, wide)
        )
        title = f"{NAMES[kind]} at each token, text tower"
        wanted.append(Wanted(title, about, "tokens", kind, columns, labels, blocks, wide))
    return Part(
        one, Counterfactual(two, f"the text {texts[1]!r} instead"), Towards(vector, "text.embeds"), wanted
    )
