"""Known facts: prompts about a subject, and what a model says of it (Meng et al. 2022, arXiv:2202.05262)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmxai.errors import ArgumentError, DataError
from mmxai.methods.trace.answers import continuation
from mmxai.methods.trace.metrics import probability
from mmxai.models.model import Model
from mmxai.models.texts import TextPipeline

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
"""The groups of tokens that ROME's figure averages over."""

BATCH = 32


@dataclass(frozen=True)
class Fact:
    """`prompt` is about `subject`, which stands in it; `attribute` is what it goes on with."""

    subject: str
    prompt: str
    attribute: str


@dataclass(frozen=True)
class Asked:
    """A fact as a model reads it. subject: first and last row of the subject in the sequence; length: rows of
    the prompt; answer: ids of the attribute behind it."""

    fact: Fact
    subject: tuple[int, int]
    length: int
    answer: tuple[int, ...]

    def rows(self, role: str) -> list[int]:
        """The rows of a role, in order; one token may have several (a subject of one token is first and last
        of it, as in ROME's own figure), and a role may have none."""
        first, last = self.subject
        after = list(range(last + 1, self.length))
        groups = (
            [first], list(range(first + 1, last)), [last], after[:1], after[1:-1], [self.length - 1],
        )  # fmt: skip
        return groups[ROLES.index(role)]


def read_facts(path: str | Path) -> list[Fact]:
    """Facts of a JSON file: a list of objects with `subject`, `prompt` and `attribute` (`known_1000.json` of
    the ROME repository). DataError where it is something else."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}, expected a JSON file of facts") from error
    except ValueError as error:
        raise DataError(f"{path}: got bytes that are not JSON ({error}), expected a list of facts") from error
    if not isinstance(found, list) or not found:
        raise DataError(f"{path}: got {type(found).__name__}, expected a list of facts, one at least")
    return [_fact(path, number, one) for number, one in enumerate(found)]


def asked(pipeline: TextPipeline, fact: Fact) -> Asked:
    """Where a fact's subject is, by the tokenizer's offsets, and what its answer is.

    ArgumentError where the subject is not in the prompt, the tokenizer keeps no offsets, or the attribute is
    not in the vocabulary.
    """
    start = fact.prompt.find(fact.subject)
    if start < 0 or not fact.subject:
        raise ArgumentError(f"fact: got subject {fact.subject!r}, expected a part of {fact.prompt!r}")
    stop = start + len(fact.subject)
    ids, spans = pipeline.tokenize_spans(fact.prompt)
    if spans is None:
        raise ArgumentError(
            f"facts: {type(pipeline.tokenizer).__name__} does not say which characters a token has, "
            "expected a fast tokenizer (tokenizer.json)"
        )
    own = [t for t, (a, b) in enumerate(spans) if a < stop and b > start and b > a]
    if not own:
        raise ArgumentError(
            f"fact: got subject {fact.subject!r}, expected some token of {fact.prompt!r} to have it"
        )
    first = len(pipeline.prefix)
    if pipeline.suffix:
        raise ArgumentError(
            f"facts: the tokenizer ends every text with {pipeline.decode(pipeline.suffix)!r}, behind which "
            "no answer goes on; expected a decoder's"
        )
    answer = continuation(pipeline, fact.prompt, fact.attribute, "attribute")
    return Asked(fact, (first + own[0], first + own[-1]), first + len(ids), answer)


def known(model: Model, facts: Sequence[Asked], *, batch: int = BATCH) -> list[Asked]:
    """Those facts whose attribute, whole, is what the model goes on with (greedily)."""
    found = []
    for begin in range(0, len(facts), batch):
        part = list(facts[begin : begin + batch])
        inputs = model.prepare([one.fact.prompt for one in part])
        bound = probability([one.answer for one in part]).bind(model, inputs)
        logits = model.run(bound.extend(inputs)).out.logits
        rows = bound.rows.to(logits.device)
        said = logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[-1])).argmax(-1).tolist()
        found += [
            one for one, ids in zip(part, said, strict=True) if tuple(ids[: len(one.answer)]) == one.answer
        ]
    return found


def members(facts: Sequence[Asked], length: int) -> dict[str, torch.Tensor]:
    """role -> bool `[M, B, T]`: the m-th token of that role of each fact, if it has one; T is `length`."""
    out = {}
    for role in ROLES:
        rows = [one.rows(role) for one in facts]
        masks = torch.zeros(max(map(len, rows)), len(facts), length, dtype=torch.bool)
        for fact, own in enumerate(rows):
            for m, row in enumerate(own):
                masks[m, fact, row] = True
        out[role] = masks
    return out


def _fact(path: Path, number: int, one: Any) -> Fact:
    names = ("subject", "prompt", "attribute")
    if not isinstance(one, dict) or not all(isinstance(one.get(n), str) and one[n] for n in names):
        raise DataError(
            f"{path}: fact {number} is {str(one)[:80]!r}, expected an object with {', '.join(names)}"
        )
    return Fact(one["subject"], one["prompt"].rstrip(), one["attribute"].strip())
