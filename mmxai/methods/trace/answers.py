"""An answer in a user's words -> the tokens with which a model would go on behind a prompt."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace import spans
from mmxai.models.inputs import Inputs
from mmxai.models.model import Model
from mmxai.models.texts import TextPipeline

TOP = 5


def prompt_of(model: Model, text: str, picture: bool) -> str:
    """What the language tower reads for a text: with a picture the rendered prompt, else the text itself."""
    prompts = getattr(model.feeds, "prompts", None)
    return prompts.render(text) if picture and prompts is not None else text


def continuation(pipeline: TextPipeline, prompt: str, answer: str, option: str = "answer") -> tuple[int, ...]:
    """The ids of `answer` behind `prompt`, with a space between where neither has one.

    Tokens are cut as in the whole text, so that a word gets the token that it has behind a space. Raises
    ArgumentError where the answer says nothing, is not in the vocabulary or changes the prompt's tokens.
    """
    if not answer.strip():
        raise ArgumentError(f"{option}: got {answer!r}, expected a word or more")
    gap = "" if prompt[-1:].isspace() or answer[:1].isspace() else " "
    before, whole = pipeline.tokenize(prompt), pipeline.tokenize(prompt + gap + answer)
    ids = tuple(whole[len(before) :])
    if whole[: len(before)] != before or not ids:
        hint = "; leave the space at the prompt's end out" if prompt[-1:].isspace() else ""
        raise ArgumentError(
            f"{option}: got {answer!r}, which changes the tokens of the prompt before it, expected a word "
            f"that goes on behind it{hint}"
        )
    unknown = getattr(pipeline.tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in ids:
        raise ArgumentError(
            f"{option}: got {answer!r}, which has a word that is not in the model's vocabulary "
            f"({len(pipeline.tokenizer)} tokens), expected words that it knows; spelling and capitals count"
        )
    return ids


def both(
    pipeline: TextPipeline, prompt: str, answer: str, foil: str | None
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The ids of answer and foil; ArgumentError where they are the same."""
    ids = continuation(pipeline, prompt, answer, "--answer")
    other = None if foil is None else continuation(pipeline, prompt, foil, "--foil")
    if ids == other:
        raise ArgumentError(f"--foil: got {foil!r}, the answer's own tokens, expected another answer")
    return ids, other


def texts_of(model: Model) -> TextPipeline:
    """The tokenizer of the language tower; ArgumentError where the model says nothing in words."""
    pipeline = model.feeds.texts("text")
    can = getattr(model.module, "can_generate", None)
    if pipeline is None or not (callable(can) and can()):
        raise ArgumentError(
            f"{model.name}: got {type(model.module).__name__}{'' if pipeline else ' without a tokenizer'}, "
            "expected a model that answers in words; of a CLIP give --texts"
        )
    return pipeline


def likeliest(model: Model, inputs: Inputs, logits: torch.Tensor, sample: int = 0) -> list[tuple[str, float]]:
    """The likeliest next tokens of one sample, of logits `[B, T, V]`, with their probabilities."""
    pipeline = texts_of(model)
    at = int(spans.last(inputs).mask[sample].nonzero()[0])
    probability, ids = logits[sample, at].float().softmax(-1).topk(TOP)
    return [(pipeline.decode([i]), p) for i, p in zip(ids.tolist(), probability.tolist(), strict=True)]
