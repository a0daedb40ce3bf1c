"""`describe`: words for the units of a store's sites, and how far the units do what the words say."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.describe.best import best_words, permuted
from mmxai.methods.describe.config import DescribeConfig
from mmxai.methods.describe.evaluate import Seen, simulated, spoilt
from mmxai.methods.describe.judge import Judged
from mmxai.methods.describe.order import largest
from mmxai.methods.describe.pooled import Pooled, ranges, sites_of
from mmxai.methods.describe.results import Description, Descriptions
from mmxai.methods.describe.scores import Cosine, RankReorder, Score, Wpmi, soft_weights, top_pictures
from mmxai.methods.describe.similarities import Similarities
from mmxai.store.select import split_of

if TYPE_CHECKING:
    from mmxai.store.reader import Store

Say = Callable[[str], object]

SHOWN = 16
"""Pictures kept of each unit, those in which it is highest."""

_SCORED_LEAST = 10  # pictures, without which a correlation says nothing


def describe(
    store: Store,
    judged: Judged,
    config: DescribeConfig | None = None,
    *,
    say: Say = lambda what: None,
) -> Descriptions:
    """Describe the units of sites by those of the judge's words whose similarity to pictures goes best with
    the units' values in them (CLIP-Dissect, Oikarinen and Weng 2023, arXiv:2204.10965).

    judged: what `look` gives. Warns where the judge is the model whose units these are.
    """
    config = config or DescribeConfig()
    notes = []
    sites = sites_of(store, config.sites)
    if judged.studied:
        notes.append(
            f"the judge is the model under study ({judged.judge}): units and words agree by construction as "
            "far as both follow its embedding; take another judge to learn what units mean to others"
        )
        warnings.warn(notes[0], stacklevel=2)
    if same := len(judged.words) - len(torch.unique(judged.texts, dim=0)):
        notes.append(f"the judge cannot tell {same:,} of the {len(judged.words):,} words from others")
    run = _Run(store, judged, config, say)
    made = {name: run.describe(name) for name in sites}
    about = {
        "store": store.path.name, "judge": judged.judge, "words": len(judged.words),
        "template": judged.template, "score": config.score,
    }  # fmt: skip
    return Descriptions(about, config.to_json(), made, notes)


class _Run:
    """One after another the sites; similarities are kept from one to the next where pictures are the same."""

    def __init__(self, store: Store, judged: Judged, config: DescribeConfig, say: Say):
        self._store, self._judged, self._config, self._say = store, judged, config, say
        self._known: tuple[bytes, Similarities] | None = None

    def describe(self, site: str) -> Description:
        config = self._config
        heads = config.heads if site.endswith(".z") else None
        pooled = Pooled(self._store, site, config.pool, config.tokens, heads)
        samples = pooled.samples()
        apart = np.zeros(len(samples), bool)
        if config.held_out:
            apart = split_of(samples, (1 - config.held_out, config.held_out, 0)) == 1
        chosen, scored = (~apart, apart) if config.held_out else (~apart, ~apart)
        if min(chosen.sum(), scored.sum()) < _SCORED_LEAST:
            raise ArgumentError(
                f"{site}: got {chosen.sum()} pictures to choose words on and {scored.sum()} to evaluate them "
                f"on, expected {_SCORED_LEAST} at least of each; see held_out"
            )
        self._say(f"{site}: {pooled.units}, {pooled.how}")
        work = _Site(
            pooled, samples, torch.from_numpy(chosen).nonzero()[:, 0],
            torch.from_numpy(scored).nonzero()[:, 0], self._judged, config,
            self._similarities(samples[chosen]), self._say,
        )  # fmt: skip
        return work.describe()

    def _similarities(self, samples: np.ndarray) -> Similarities:
        key = samples.tobytes()
        if self._known is None or self._known[0] != key:
            self._known = None  # before the next is made
            made = Similarities(self._judged.of(samples), self._judged.texts, self._config.bytes // 2)
            self._known = key, made
        return self._known[1]


class _Site:
    """Units go in groups whose values fit in memory; those of the group at hand are kept."""

    def __init__(
        self, pooled: Pooled, samples: np.ndarray, chosen: torch.Tensor, scored: torch.Tensor,
        judged: Judged, config: DescribeConfig, similarities: Similarities, say: Say,
    ):  # fmt: skip
        self._pooled, self._samples, self._judged, self._config = pooled, samples, judged, config
        self._chosen, self._scored, self._similarities, self._say = chosen, scored, similarities, say
        # Values, those of the chosen pictures, their sorted copies.
        self._groups = list(ranges(pooled.count, 32 * len(samples), config.bytes // 4))
        self._held: tuple[tuple[int, int], torch.Tensor] | None = None
        self._draws = config.permutations(pooled.count)

    def describe(self) -> Description:
        units, config = self._pooled.count, self._config
        number, shown = min(config.candidates, len(self._judged.words)), min(SHOWN, len(self._samples))
        fired, constant = np.zeros(units, np.int64), np.zeros(units, bool)
        top_samples, top_values = np.zeros((units, shown), np.int64), np.zeros((units, shown), np.float32)
        tops = []
        for group in self._groups:
            x, here = self._values(group), slice(*group)
            best = largest(x.T, shown)
            top_samples[here], top_values[here] = self._samples[best.numpy()], x.T.gather(1, best).numpy()
            x = x[self._chosen]
            fired[here], constant[here] = (x > 0).sum(0).numpy(), (x.amax(0) == x.amin(0)).numpy()
            if config.alike:
                tops.append(top_pictures(x, int(config.option("top"))))
        live = torch.from_numpy(np.flatnonzero(~constant))
        words = torch.full((units, number), -1)
        score = torch.full((units, number), -torch.inf)
        permuted_words = torch.full((self._draws, units), -1)
        permuted_score = torch.full((self._draws, units), -torch.inf)
        self._say(f"{self._pooled.units.name}: {config.score} of {len(self._judged.words):,} words")
        # The marginal is over all units: those scores take the layer whole, others a group at a time.
        for own, score_of in self._scores(live, torch.cat(tops) if tops else None):
            n = len(self._chosen)
            words[own], score[own] = best_words(score_of(torch.arange(n)), number)
            if self._draws:
                found = permuted(score_of, n, self._draws, config.seed)
                permuted_words[:, own], permuted_score[:, own] = found
        correlation, chance, tests = self._evaluate(words, permuted_words, live)
        return Description(
            self._pooled.units.name, self._pooled.units.kind, self._pooled.how, self._judged.words,
            words.numpy(), score.numpy(), correlation, permuted_score.numpy(), chance, config.alike, tests,
            fired, constant, len(self._chosen), len(self._scored), config.held_out, top_samples, top_values,
        )  # fmt: skip

    def _values(self, group: tuple[int, int]) -> torch.Tensor:
        """float32 `[N, units]`."""
        if self._held is None or self._held[0] != group:
            self._held = None  # before the next is read
            self._held = group, self._pooled.read(*group)
        return self._held[1]

    def _scores(
        self, live: torch.Tensor, tops: torch.Tensor | None
    ) -> list[tuple[torch.Tensor, Callable[[torch.Tensor], Score]]]:
        """Units int64, and their score by the order of the pictures (see `permuted`)."""
        if not len(live):
            return []
        if tops is not None:
            return [(live, partial(self._wpmi, tops[live]))]
        found: list[tuple[torch.Tensor, Callable[[torch.Tensor], Score]]] = []
        for start, stop in self._groups:
            own = live[(live >= start) & (live < stop)]
            if len(own):
                found.append((own, partial(self._compared, (start, stop), own)))
        return found

    def _wpmi(self, tops: torch.Tensor, order: torch.Tensor) -> Score:
        config, top = self._config, tops.shape[1]
        weights = soft_weights(top) if config.score == "soft_wpmi" else torch.ones(top)
        return Wpmi(
            self._similarities, order[tops], weights,
            temperature=config.option("temperature"), marginal=config.option("marginal"),
        )  # fmt: skip

    def _compared(self, group: tuple[int, int], own: torch.Tensor, order: torch.Tensor) -> Score:
        x = self._values(group)[self._chosen][:, own - group[0]]
        x = torch.empty_like(x).index_copy_(0, order, x)
        if self._config.score == "rank_reorder":
            return RankReorder(self._similarities, x)
        return Cosine(self._similarities, x, cubed=self._config.score == "cosine_cubed")

    def _evaluate(
        self, words: torch.Tensor, permuted_words: torch.Tensor, live: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Correlations float64 `[U, R]`, those of the null `[draws, U]`, and the tests of the first words."""
        config, name = self._config, self._pooled.units.name
        self._say(f"{name}: labels on {len(self._scored):,} pictures")
        correlation, chance = np.full(words.shape, np.nan), np.full(permuted_words.shape, np.nan)
        tests: dict[str, np.ndarray] = {}
        images, texts = self._judged.of(self._samples), self._judged.texts
        for group in self._groups:
            own = live[(live >= group[0]) & (live < group[1])]
            own = own[words[own, 0] >= 0]
            if not len(own):
                continue
            x = self._values(group)[:, own - group[0]]
            chosen, scored = (Seen(x[at], images[at]) for at in (self._chosen, self._scored))
            for r in range(words.shape[1]):
                found = simulated(scored, texts[words[own, r]])
                correlation[own, r] = torch.where(words[own, r] >= 0, found, torch.nan)
            for d in range(len(permuted_words) if config.held_out else 0):
                found = simulated(scored, texts[permuted_words[d, own]])
                chance[d, own] = torch.where(permuted_words[d, own] >= 0, found, torch.nan)
            if config.draws:
                for key, value in spoilt(
                    chosen, scored, texts[words[own, 0]], config.draws, config.seed
                ).items():
                    tests.setdefault(key, np.full(len(words), np.nan))[own] = value
        return correlation, chance, tests
