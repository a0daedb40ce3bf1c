"""The options of a description; `mmxai describe`'s are generated from this dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mmxai.errors import ArgumentError

Scored = Literal["soft_wpmi", "wpmi", "cosine", "cosine_cubed", "rank_reorder"]
Pool = Literal["auto", "mean", "max", "cls", "last"]

PUBLISHED: dict[str, dict[str, float]] = {
    "soft_wpmi": {"top": 100, "temperature": 10, "marginal": 1},
    "wpmi": {"top": 28, "temperature": 2, "marginal": 0.6},
}
"""What CLIP-Dissect's code takes by default."""

_ALIKE, _OWN = 5, 20
"""Permutations at least, of a null of all units and of each unit's own: beyond all 20 of those is beyond 95%
of chance. A permutation moves all units alike, so that one or two would show their own whims."""


@dataclass(frozen=True)
class DescribeConfig:
    sites: tuple[str, ...] = ("*",)
    """Sites or globs. Of globs, those that have rows of pictures."""
    heads: int | None = None
    """Heads side by side in a row of a z site, each a unit by its norm. Default: as the store says; 0: none,
    columns one by one."""
    pool: Pool = "auto"
    """A unit's one value a picture: mean or max over the picture's rows, its class token (cls) or its last
    row. auto, as CLIP-Dissect: the class token where rows have one, else the mean over the map."""
    tokens: str | None = None
    """Token types that mean and max are taken over, comma-separated. Default: patches and image tokens, or
    all where there are none."""
    score: Scored = "soft_wpmi"
    """How well a word describes a unit."""
    top: int | None = None
    """Pictures a unit likes best, of soft_wpmi (default 100) and wpmi (28)."""
    temperature: float | None = None
    """Factor of the judge's cosines in P(word | picture), of soft_wpmi (default 10) and wpmi (2)."""
    marginal: float | None = None
    """Weight of log p(word), of soft_wpmi (default 1) and wpmi (0.6)."""
    candidates: int = 5
    """Words kept of each unit, best first."""
    held_out: float = 0.2
    """Share of the pictures, by a hash of their number, that words are not chosen on and labels are evaluated
    on; 0: all pictures are both, as CLIP-Dissect chooses."""
    null: int = 1000
    """At least so many best scores of units whose pictures were permuted, by 5 permutations at least; 0:
    none. Scores that depend on values, and not only on which pictures are best, take 20 at least, for there
    each unit is compared with itself."""
    draws: int = 10
    """Draws of missing and of extra labels; 0: those tests are left out."""
    memory: float = 2.0
    """GiB for similarities and values; what does not fit is computed again, or goes in further passes."""
    seed: int = 0
    """Of the permutations and of the labels that go missing."""

    def __post_init__(self) -> None:
        made = (self.sites,) if isinstance(self.sites, str) else tuple(s for s in self.sites if s)
        object.__setattr__(self, "sites", made)

        def check(good: bool, name: str, expected: str) -> None:
            if not good:
                raise ArgumentError(f"describe: got {name}={getattr(self, name)!r}, expected {expected}")

        check(bool(self.sites), "sites", "at least one")
        for name, kinds in (("pool", Pool), ("score", Scored)):
            check(getattr(self, name) in get_args(kinds), name, f"one of {get_args(kinds)}")
        check(
            self.tokens is None or self.pool in ("auto", "mean", "max"), "tokens", "none with pool=cls, last"
        )
        own = PUBLISHED.get(self.score, {})
        for name in ("top", "temperature", "marginal"):
            value = getattr(self, name)
            check(value is None or name in own, name, f"none, for {self.score} has no such option")
        check(self.top is None or self.top >= 1, "top", "at least 1")
        check(self.temperature is None or self.temperature > 0, "temperature", "more than 0")
        check(self.marginal is None or self.marginal >= 0, "marginal", "0 or more")
        check(self.candidates >= 1, "candidates", "at least 1")
        check(0 <= self.held_out < 1, "held_out", "a share from 0, below 1")
        for name in ("null", "draws", "seed"):
            check(getattr(self, name) >= 0, name, "0 or more")
        check(self.memory > 0, "memory", "more than 0 GiB")

    def option(self, name: str) -> float:
        """`top`, `temperature` or `marginal`, as given or as published."""
        value = getattr(self, name)
        return PUBLISHED[self.score][name] if value is None else value

    @property
    def alike(self) -> bool:
        """Whether best scores by chance are alike for all units: those of scores that do not know values."""
        return self.score in PUBLISHED

    def permutations(self, units: int) -> int:
        """Permutations that `null` asks for."""
        if not self.null:
            return 0
        return max(-(-self.null // units), _ALIKE if self.alike else _OWN)

    @property
    def bytes(self) -> int:
        return int(self.memory * (1 << 30))

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
