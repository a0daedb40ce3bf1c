"""What tracing measures at the output of a language model: how it scores an answer, whole.

Each is a `mmxai.models.metrics.Metric` once bound to samples: `bound(run, inputs) -> [samples]`,
differentiable. An answer of several tokens is scored by feeding it (teacher forcing) and adding up the
log-probabilities of its tokens; where an answer and a foil part after a shared first token they need a
sequence each, so that what is run may be twice as many sequences as there are samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace.inputs import extended, lengths_of, repeated
from mmxai.models.inputs import Inputs

if TYPE_CHECKING:
    from mmxai.models.model import Model, Run

Answer = str | int | Sequence[int]
Answers = Answer | Sequence[Answer]
Score = Literal["probability", "log_probability", "logit_difference", "kl"]


@dataclass(frozen=True)
class TokenMetric:
    """How a model scores answers behind its prompts.

    score: "probability" (of all the answer's tokens), "log_probability" (nats), "logit_difference": log
    p(answer) - log p(foil), which for single tokens is the difference of their logits; "kl": KL(clean ||
    here) of the next token, nats. answers, foils: one for all, or one a sample: text as it goes on behind
    the prompt (of GPT-2 " Paris", with its space), a token id, or several ids.
    """

    score: Score
    answers: tuple[Answer, ...] = ()
    foils: tuple[Answer, ...] = ()

    @property
    def name(self) -> str:
        return self.score

    def take(self, samples: Sequence[int]) -> TokenMetric:
        """Of some of the samples."""

        def some(given: tuple[Answer, ...]) -> tuple[Answer, ...]:
            return given if len(given) <= 1 else tuple(given[i] for i in samples)

        return replace(self, answers=some(self.answers), foils=some(self.foils))

    def bind(self, model: Model, inputs: Inputs) -> BoundMetric:
        """For the prompts `inputs` (and any others of the same lengths, answers and foils)."""
        samples = inputs.batch_size
        lengths = lengths_of(inputs)
        if self.score == "kl":
            return BoundMetric(self, 1, [[()] * samples], lengths, (lengths - 1)[:, None])
        answers = _ids(model, self.answers, samples, "answers")
        both = [answers]
        if self.score == "logit_difference":
            both.append(_ids(model, self.foils, samples, "foils"))
        single = all(len(a) == 1 for side in both for a in side)
        copies = 1 if single else len(both)
        longest = max(len(a) for side in both for a in side)
        rows = (lengths - 1)[:, None] + torch.arange(longest)
        limits = torch.stack([lengths - 1 + torch.tensor([len(a) for a in side]) for side in both[:copies]])
        rows = torch.minimum(rows.repeat(copies, 1), limits.reshape(-1, 1) - 1)
        return BoundMetric(self, copies, both, lengths, rows)


@dataclass
class BoundMetric:
    """A metric of S samples, which are n = copies x S sequences (all answers, then all foils).

    rows: int64 `[n, K]`, the rows of the text tower whose next token is scored (the last repeated where an
    answer is shorter). It scores any whole number C of such batches one behind the other.
    """

    metric: TokenMetric
    copies: int
    tokens: list[list[tuple[int, ...]]]
    lengths: torch.Tensor
    rows: torch.Tensor
    reference: torch.Tensor | None = field(default=None)
    needs: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        return len(self.lengths)

    def repeated(self, draws: int) -> BoundMetric:
        """For `draws` batches of the prompts as one, draw by draw."""
        rows = self.rows.unflatten(0, (self.copies, -1)).repeat(1, draws, 1).flatten(0, 1)
        tokens = [side * draws for side in self.tokens]
        reference = self.reference
        if reference is not None:
            reference = reference.repeat(draws, 1, 1)
        return replace(
            self, tokens=tokens, lengths=self.lengths.repeat(draws), rows=rows, reference=reference
        )

    def extend(self, inputs: Inputs) -> Inputs:
        """The sequences to run: the prompts, an answer and a foil, with all but their last tokens fed."""
        if self.metric.score == "kl":
            return inputs
        tails = [t[:-1] for side in self.tokens[: self.copies] for t in side]
        return extended(repeated(inputs, self.copies), self.lengths.repeat(self.copies), tails)

    def with_reference(self, logits: torch.Tensor) -> BoundMetric:
        """logits `[n, K, V]` of the clean run, which "kl" compares with; others do not look at them."""
        return replace(self, reference=logits) if self.metric.score == "kl" else self

    def __call__(self, run: Run, inputs: Inputs) -> torch.Tensor:
        logits = run.out.logits
        times = len(logits) // len(self.rows)
        rows = self.rows.repeat(times, 1).to(logits.device)
        return self.scored(logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[-1])))

    def scored(self, logits: torch.Tensor) -> torch.Tensor:
        """logits `[C * n, K, V]` at `rows` -> float32 `[C * S]`."""
        logits = logits.float().unflatten(0, (-1, self.copies, self.samples))
        if self.metric.score == "kl":
            if self.reference is None:
                raise ArgumentError("kl: got no clean run to compare with; call with_reference first")
            clean = self.reference.to(logits.device).float()[:, 0].log_softmax(-1)
            here = logits[:, 0, :, 0].log_softmax(-1)
            return (clean.exp() * (clean - here)).sum(-1).flatten()
        if self.metric.score == "logit_difference" and self.copies == 1:
            # The logits themselves: what both logarithms of probabilities share cancels.
            return (self._picked(logits, 0, 0) - self._picked(logits, 1, 0)).flatten()
        logs = logits.log_softmax(-1)
        if self.metric.score == "logit_difference":
            return (self._picked(logs, 0, 0) - self._picked(logs, 1, 1)).flatten()
        total = self._picked(logs, 0, 0)
        return (total.exp() if self.metric.score == "probability" else total).flatten()

    def _picked(self, values: torch.Tensor, side: int, copy: int) -> torch.Tensor:
        """Sum over an answer's tokens of `[C, copies, S, K, V]` -> `[C, S]`."""
        tokens = self.tokens[side]
        longest = max(len(t) for t in tokens)
        index = torch.tensor([[*t, *[0] * (longest - len(t))] for t in tokens], device=values.device)
        real = torch.tensor([[k < len(t) for k in range(longest)] for t in tokens], device=values.device)
        picked = values[:, copy, :, :longest].gather(-1, index.expand(len(values), -1, -1)[..., None])[..., 0]
        return torch.where(real, picked, 0).sum(-1)


def probability(answers: Answers) -> TokenMetric:
    """Probability of the answer: the product over its tokens."""
    return TokenMetric("probability", _tuple(answers))


def log_probability(answers: Answers) -> TokenMetric:
    """Log-probability of the answer, in nats: the sum over its tokens."""
    return TokenMetric("log_probability", _tuple(answers))


def logit_difference(answers: Answers, foils: Answers) -> TokenMetric:
    """Logit of the answer less that of the foil; of several tokens, log p(answer) - log p(foil)."""
    return TokenMetric("logit_difference", _tuple(answers), _tuple(foils))


def kl() -> TokenMetric:
    """KL(clean || here) of the next token behind the prompt, in nats."""
    return TokenMetric("kl")


def _tuple(given: Answers) -> tuple[Answer, ...]:
    if isinstance(given, torch.Tensor):
        given = given.tolist()
    return (given,) if isinstance(given, str | int) else tuple(given)


def _ids(model: Model, given: tuple[Answer, ...], samples: int, what: str) -> list[tuple[int, ...]]:
    if len(given) not in (1, samples):
        raise ArgumentError(f"{what}: got {len(given)} for {samples} prompts, expected one, or one a prompt")
    pipeline = model.feeds.texts("text")
    found: list[tuple[int, ...]] = []
    for answer in given:
        if isinstance(answer, str):
            if pipeline is None:
                raise ArgumentError(
                    f"{what}: got {answer!r} for a model without a tokenizer, expected token ids; or load it "
                    "with tokenizer="
                )
            found.append(tuple(pipeline.tokenize(answer)))
            unknown = pipeline.tokenizer.unk_token
            if unknown and unknown not in answer and pipeline.tokenizer.unk_token_id in found[-1]:
                raise ArgumentError(
                    f"{what}: got {answer!r}, which has a word that is not in the model's vocabulary, "
                    "expected words that it knows; spelling and capitals count"
                )
        else:
            found.append((answer,) if isinstance(answer, int) else tuple(int(i) for i in answer))
        if not found[-1]:
            raise ArgumentError(f"{what}: got {answer!r}, which has no token, expected one at least")
    return found if len(found) == samples else found * samples
