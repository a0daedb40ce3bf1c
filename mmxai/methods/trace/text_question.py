"""A question to a language model: which token's states bring its answer back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace import answers, groups
from mmxai.methods.trace.corruptions import Counterfactual, Noise
from mmxai.methods.trace.metrics import TokenMetric, logit_difference, probability
from mmxai.methods.trace.question import KINDS, NAMES, Part, Question, Wanted, spans_of, window_of
from mmxai.methods.trace.spans import real
from mmxai.methods.trace.types import Span

if TYPE_CHECKING:
    from mmxai.methods.trace.types import Corruption
    from mmxai.models.inputs import Inputs
    from mmxai.models.model import Model
    from mmxai.models.texts import TextPipeline

DRAWS = 10


def text_question(
    model: Model,
    prompt: str,
    *,
    answer: str,
    foil: str | None = None,
    subject: str | None = None,
    counterfactual: str | None = None,
    sigma: float = 3.0,
    draws: int = DRAWS,
    window: int | None = None,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> Question:
    """What is said behind `prompt`: `answer` rather than `foil` (None: its probability).

    Corrupted is `counterfactual`, a prompt of as many tokens with another answer; or else the embeddings of
    `subject`, a part of the prompt, by `draws` draws of Gaussian noise of `sigma` deviations. With both,
    subject only says which tokens are it. Raises ArgumentError.
    """
    pipeline = answers.texts_of(model)
    if subject is None and counterfactual is None:
        raise ArgumentError(
            "got neither --subject nor --counterfactual, expected what shall be corrupted: the words of the "
            "prompt that noise is put on, or another prompt of as many tokens"
        )
    clean = model.prepare([prompt])
    rows = clean.rows["text"][0]
    marked = None if subject is None else _subject(rows, pipeline, subject)
    corruption: Corruption
    if counterfactual is not None:
        corruption = another_text(pipeline, prompt, counterfactual, clean, model.prepare([counterfactual]))
    else:
        assert marked is not None
        corruption = Noise(Span(f"{subject!r}", marked[None]), sigma=sigma, draws=draws, seed=seed)
    metric, score = metric_of(pipeline, prompt, answer, foil)
    labels, each = token_columns(rows, pipeline)
    spans = spans_of(each, labels, "text")
    blocks = model.towers["text"].dims.blocks
    wanted = []
    for kind in kinds:
        wide = window_of(window, blocks, kind)
        wanted.append(
            Wanted(
                f"{NAMES[kind]} at each token", about_window(kind, wide), "tokens", kind, spans, labels,
                blocks, wide,
            )
        )  # fmt: skip
    asked = f"{prompt!r} \N{RIGHTWARDS ARROW} {answer!r}" + ("" if foil is None else f" rather than {foil!r}")
    facts = {} if marked is None else {"subject": subject or ""}
    return Question(model, asked, score, [Part(clean, corruption, metric, wanted)], facts=facts)


def metric_of(pipeline: TextPipeline, prompt: str, answer: str, foil: str | None) -> tuple[TokenMetric, str]:
    """The metric of an answer behind a prompt, and what it is called."""
    ids, other = answers.both(pipeline, prompt, answer, foil)
    if other is None:
        return probability([ids]), f"probability of {answer!r}"
    said = "logit difference" if len(ids) == len(other) == 1 else "log-probability difference"
    return logit_difference([ids], [other]), f"{said} of {answer!r} and {foil!r}"


def token_columns(rows: torch.Tensor, pipeline: TextPipeline) -> tuple[list[str], list[torch.Tensor]]:
    """The tokens of a text in order, as text, and each one's row: bool `[T]`; pictures' rows are left out."""
    at = groups.of_types(rows, "text", "special", "generated").nonzero().flatten().tolist()
    each = [torch.arange(len(rows)) == t for t in at]
    return [pipeline.decode([i]) for i in groups.token_ids(rows[at])], each


def about_window(kind: str, window: int) -> str:
    """What was restored in a map."""
    what = f"{NAMES[kind]} of one block" if window == 1 else f"{NAMES[kind]} of {window} blocks together"
    where = "" if window == 1 else "; a row is named by the window's blocks"
    return f"The corrupted run with {what} put back to the clean run's, at one column's rows{where}."


def another_text(
    pipeline: TextPipeline, clean: str, other: str, inputs: Inputs, others: Inputs
) -> Counterfactual:
    """The counterfactual text. ArgumentError where it has not as many tokens, saying how both are cut."""
    lengths = [int(real(i)[0].sum()) for i in (inputs, others)]
    if lengths[0] != lengths[1]:
        cut = [[pipeline.decode([i]) for i in pipeline.tokenize(t)] for t in (clean, other)]
        raise ArgumentError(
            f"--counterfactual: got {len(cut[1])} tokens {cut[1]}, expected {len(cut[0])} as the prompt has, "
            f"{cut[0]}, for states are exchanged token by token; choose another wording, or give --subject "
            "for noise instead"
        )
    if clean == other:
        raise ArgumentError("--counterfactual: got the prompt itself, expected another with another answer")
    return Counterfactual(others, f"the prompt {other!r} instead")


def _subject(rows: torch.Tensor, pipeline: TextPipeline, subject: str) -> torch.Tensor:
    try:
        return groups.words(rows, pipeline.decode, subject)
    except ArgumentError as error:
        raise ArgumentError(f"--subject: {error}") from error
