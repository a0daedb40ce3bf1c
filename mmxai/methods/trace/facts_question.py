"""ROME's figure: where in a model known facts are brought back, averaged over facts by the role of tokens.

Of each fact the subject's embeddings are corrupted by noise; then the stream of one block, or what a window
of blocks' MLPs or attentions add, is put back at one token at a time (Meng et al. 2022, arXiv:2202.05262).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace import facts as known_facts
from mmxai.methods.trace.answers import texts_of
from mmxai.methods.trace.corruptions import Noise
from mmxai.methods.trace.facts import ROLES, Asked, Fact
from mmxai.methods.trace.findings import Findings, Map, Side
from mmxai.methods.trace.metrics import probability
from mmxai.methods.trace.question import KINDS, NAMES, Part, Planned, Question, Wanted, window_of
from mmxai.methods.trace.types import Span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmxai.methods.trace.results import TraceResult
    from mmxai.models.model import Model

DRAWS = 10
WINDOW, DEEP = 10, 20
"""ROME's windows have 10 blocks, of 48; in towers of fewer than `DEEP` a window is a fifth of the blocks."""
RESAMPLED = 1000


@dataclass
class FactsQuestion(Question):
    """Many facts at once; made by `facts_question`. known: the facts that are traced."""

    known: list[Asked] = field(default_factory=list)

    def run(
        self,
        studies: Sequence[Planned] | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        keep: Path | None = None,
    ) -> Findings:
        """The maps `[blocks, roles]`: what putting back one token of that role recovers, a mean over its
        tokens in a fact, then over the facts that have one; intervals by drawing facts."""
        began = time.perf_counter()
        ((part, wanted, study),) = [
            (p.part, p.wanted, p.study) for p in (self.studies() if studies is None else studies)
        ]
        result = study.run(progress=progress, keep=keep)
        at, maps = 0, []
        for w in wanted:
            count = len(w.starts) * len(w.spans)
            maps.append(self._by_role(w, result, slice(at, at + count)))
            at += count
        clean, corrupted = (_side(result, v) for v in (result.other, result.base))
        return Findings(
            self.model.name, self.asked, self.score, part.corruption.what, clean, corrupted,
            len(result.base), maps, facts=self.facts, notes=self.notes, forwards=result.forwards,
            seconds=time.perf_counter() - began,
        )  # fmt: skip

    def _by_role(self, w: Wanted, result: TraceResult, cells: slice) -> Map:
        """One map of the tokens' cells `[blocks, tokens, samples]`."""
        shape = (len(w.starts), len(w.spans))
        count = len(self.known)
        effect = _by_fact(result.effect[cells], result.prompt, count).reshape(*shape, count)
        total = _by_fact(result.total[None], result.prompt, count)[0]
        # Which fact has which token.
        there = np.stack([s.mask.any(1).numpy() for s in w.spans])
        roles = np.array([ROLES.index(label) for label in w.labels])
        means, has = np.zeros((shape[0], len(ROLES), count)), np.zeros((len(ROLES), count), bool)
        for role in range(len(ROLES)):
            own = roles == role
            tokens = there[own].sum(0)
            has[role] = tokens > 0
            summed = (effect[:, own] * there[own]).sum(1)
            means[:, role] = summed / np.maximum(tokens, 1)
        generator = np.random.default_rng(0)
        drawn = generator.multinomial(count, np.full(count, 1 / count), RESAMPLED).astype(float)
        value = _recovered(means, has, total, np.ones((1, count)))[0]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)  # a role that no fact has
            low, high = np.nanquantile(_recovered(means, has, total, drawn), (0.025, 0.975), axis=0)
        guessed = np.zeros(len(result.cells), bool) if result.estimated is None else result.estimated
        some = guessed[cells].reshape(shape)
        estimated = np.stack([some[:, roles == r].any(1) for r in range(len(ROLES))], axis=1)
        return Map(
            w.title, w.about, w.shows, w.kind, w.window, w.tower, list(ROLES), value, low, high, estimated
        )


def facts_question(
    model: Model,
    facts: str | Path | Sequence[Fact],
    *,
    limit: int | None = None,
    only_known: bool = True,
    kinds: Sequence[str] = KINDS,
    window: int | None = None,
    sigma: float = 3.0,
    draws: int = DRAWS,
    shared: bool = False,
    seed: int = 0,
) -> FactsQuestion:
    """The study of ROME's figure, of facts (or their file) and any decoder.

    only_known: of the first `limit` facts those alone whose attribute the model gives, whole; what it does
    not know cannot be brought back. Noise is of `sigma` standard deviations of the subjects' embeddings,
    `draws` of it a fact, or `shared` by all facts. window: blocks put back together, of MLP and attention.
    Raises ArgumentError, also where the model knows none of the facts.
    """
    given = known_facts.read_facts(facts) if isinstance(facts, str | Path) else list(facts)
    given = given[:limit]
    if not given:
        raise ArgumentError("facts: got none, expected one at least")
    pipeline = texts_of(model)
    read, skipped = [], []
    for one in given:
        try:
            read.append(known_facts.asked(pipeline, one))
        except ArgumentError as error:  # a vocabulary may lack the names of a fact, and another's not
            skipped.append(str(error))
    kept = known_facts.known(model, read) if only_known else read
    if not kept:
        why = f"; {len(skipped)} cannot be asked, the first because: {skipped[0]}" if skipped else ""
        raise ArgumentError(
            f"facts: got {len(given)}, of which {model.name} knows none, expected one at least{why}"
        )
    clean = model.prepare([one.fact.prompt for one in kept])
    length = clean.rows["text"].shape[1]
    subject = torch.zeros(len(kept), length, dtype=torch.bool)
    for i, fact in enumerate(kept):
        subject[i, fact.subject[0] : fact.subject[1] + 1] = True
    corruption = Noise(Span("the subjects", subject), sigma=sigma, draws=draws, shared=shared, seed=seed)
    spans, labels = [], []
    for role, masks in known_facts.members(kept, length).items():
        for number, mask in enumerate(masks):
            spans.append(Span(f"{role} {number}", mask))
            labels.append(role)
    blocks = model.towers["text"].dims.blocks
    wanted = []
    for kind in kinds:
        wide = window_of(window or (WINDOW if blocks >= DEEP else None), blocks, kind)
        several = "one block" if wide == 1 else f"{wide} blocks together, a row is named by them"
        about = (
            f"The corrupted run with {NAMES[kind]} of {several}, put back to the clean run's at one token: "
            "the mean over the tokens of a role, and over facts."
        )
        title = f"{NAMES[kind]} by the role of tokens"
        wanted.append(Wanted(title, about, "groups", kind, spans, labels, blocks, wide))
    metric = probability([one.answer for one in kept])
    said = f"{len(kept)} of {len(given)}"
    return FactsQuestion(
        model,
        f"{len(kept)} facts that it knows" if only_known else f"{len(kept)} facts",
        "probability of the attribute",
        [Part(clean, corruption, metric, wanted)],
        facts={"facts traced": said, "facts that cannot be asked": str(len(skipped))},
        notes=[f"Not asked: {skipped[0]} (and {len(skipped) - 1} more)"] if skipped else [],
        known=kept,
    )


def figure(found: Findings) -> Figure:
    """The maps of `facts_question` side by side as ROME prints them: roles down, blocks across, and the
    average indirect effect: what is recovered of the corruption's mean effect, as a probability."""
    from matplotlib.figure import Figure

    out = Figure(figsize=(4.2 * len(found.maps), 2.8), layout="constrained")
    effect = found.clean.value - found.corrupted.value
    for ax, one in zip(np.atleast_1d(out.subplots(1, len(found.maps), sharey=True)), found.maps, strict=True):
        values = one.value.T * effect
        image = ax.imshow(values, aspect="auto", cmap="Purples", vmin=min(0.0, float(np.nanmin(values))))
        ax.set_yticks(range(len(ROLES)), ROLES)
        several = "" if one.window == 1 else f", windows of {one.window}"
        ax.set(title=f"{NAMES[one.kind]}{several}", xlabel="first block" if several else "block")
        out.colorbar(image, ax=ax, label="indirect effect")
    return out


def _by_fact(values: np.ndarray, prompt: np.ndarray, count: int) -> np.ndarray:
    """`[cells, samples]` -> `[cells, facts]`: means over each fact's draws."""
    return np.stack([values[:, prompt == fact].mean(1) for fact in range(count)], axis=1)


def _recovered(means: np.ndarray, has: np.ndarray, total: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """`[resamples, blocks, roles]`: mean effect over mean total effect, of the facts that have the role; NaN
    where none has. drawn `[resamples, facts]`: how often each fact was drawn."""
    effect = np.einsum("nf,brf->nbr", drawn, means * has)
    of = np.einsum("nf,rf->nr", drawn, has * total)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.einsum("nf,rf->nr", drawn, has)[:, None] > 0, effect / of, np.nan)


def _side(result: TraceResult, values: np.ndarray) -> Side:
    drawn = np.array([values[i].mean() for i in result.resamples(RESAMPLED)])
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(values) > 1 else (np.nan, np.nan)
    return Side(float(values.mean()), float(low), float(high))
