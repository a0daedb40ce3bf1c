"""A tower's own token embeddings as its unembedding: for encoders of texts, which end in no logits.

Encoders (CLIP's and T5's, as diffusion models have them, BERT's) write over a stream that began as token
embeddings, and what lies in it can be looked up among these. Unlike a language model's head, nothing in the
model reads it so: it is a way to look, not an output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from mmxai.errors import ArgumentError
from mmxai.models.unembedding import Unembedding, _final, _token_names

if TYPE_CHECKING:
    from mmxai.models.model import Model


def token_embedding(model: Model, tower: str = "text", *, unit: bool = True) -> Unembedding:
    """States of `tower` behind its final norm, against its token embeddings, by cosine (`unit`) or product.

    By product long embeddings, those of rare tokens, win every row. ArgumentError where the tower reads no
    tokens, or embeds them in another width than its stream's.
    """
    bound = model.towers.get(tower)
    site = None if bound is None else bound.sites.get(f"{tower}.embed")
    table = None if site is None else site.point.module
    if bound is None or not isinstance(table, nn.Embedding):
        raise ArgumentError(
            f"lens: got tower {tower!r} of {model.name}, expected one that embeds tokens, of "
            f"{list(model.towers)}"
        )
    if table.embedding_dim != bound.dims.model:
        raise ArgumentError(
            f"lens: got token embeddings {table.embedding_dim} wide for a stream of {bound.dims.model}, "
            f"expected one width; {model.name} projects them in between"
        )
    weight = table.weight.detach()
    return Unembedding(
        model=model.name,
        tower=tower,
        width=bound.dims.model,
        weight=nn.functional.normalize(weight.float(), dim=1) if unit else weight,
        names=_token_names(model, tower),
        final=_final(bound),
        unit=unit,
        blocks=bound.dims.blocks,
    )
