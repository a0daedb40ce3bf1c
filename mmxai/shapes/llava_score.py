"""How well a LLaVA answers questions of the shapes world: greedy answers, right word for word, by kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.shapes.llava_feed import KINDS, Packed, Pool, pack
from mmxai.shapes.questions import Question
from mmxai.shapes.scene import ATTRIBUTES
from mmxai.shapes.score import SEED, Score, interval

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


def predict(model: LlavaForConditionalGeneration, features: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Logits `[A, V]` of an answer's words, each after the true words before it.

    features: float32 `[P, 64, 192]`, what the projector reads.
    """
    language, pictures = model.model.language_model, packed.segments.eq(0)
    at = packed.ids.eq(model.config.image_token_id) & pictures
    rows = language.embed_tokens(packed.ids)
    soft = model.model.multi_modal_projector(features).to(rows.dtype)
    rows = rows.masked_scatter(at[..., None], soft)
    out = language(
        inputs_embeds=rows, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
    )
    return model.lm_head(out.last_hidden_state.flatten(0, 1)[packed.rows])


def right(logits: torch.Tensor, packed: Packed) -> torch.Tensor:
    """bool `[Q]`: is the greedy answer the true one, its end included?

    It is exactly where every word is the likeliest after the true ones before it.
    """
    wrong = logits.argmax(-1) != packed.targets
    return torch.zeros(len(packed.kinds)).index_add(0, packed.question, wrong.float()) == 0


@torch.inference_mode()
def answered(
    model: LlavaForConditionalGeneration,
    pool: Pool,
    asked: Sequence[Sequence[Question]] | None = None,
    *,
    autocast: bool = False,
    chunk: int = 32,
) -> tuple[list[Question], np.ndarray]:
    """Every question of a pool (or `asked`, a list a picture) and whether it was answered: bool `[Q]`."""
    asked = asked or [pool.asked(i, relatives=1) for i in range(len(pool))]
    found = []
    for start in range(0, len(pool), chunk):
        packed = pack(asked[start : start + chunk])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = predict(model, pool.features[start : start + chunk].float(), packed)
        found.append(right(logits, packed).numpy())
    return [q for several in asked for q in several], np.concatenate(found)


def scores(
    model: LlavaForConditionalGeneration, split: str = "test", *, pictures: int = 1024, seed: int = SEED
) -> list[Score]:
    """Every score of the card on one split: a question of each kind a picture, where it has one."""
    asked, hits = answered(model, Pool(model, pictures, seed, split))
    out = []
    for kind in KINDS:
        of = np.array([q.kind == kind for q in asked])
        chances = [chance(q) for q in asked if q.kind == kind]
        out.append(interval(hits[of], kind, float(np.mean(chances)) if chances else 0.0))
    return out


def chance(question: Question) -> float:
    """Of a guess among the answers that the question's words allow."""
    match question.kind:
        case "existence" | "relation":
            return 1 / 2
        case "count":
            return 1 / 4
        case "place":
            return 1 / len(ATTRIBUTES["place"])
        case "attribute" | "relative":
            return 1 / len(ATTRIBUTES[question.text.split()[1]])
    return 0.0
