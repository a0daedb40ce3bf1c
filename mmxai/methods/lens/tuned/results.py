"""What training a tuned lens found, site by site."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mmxai.methods.lens.tuned.translators import TunedLens
from mmxai.results import Result, axes, lines_of, number, plain

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class SiteTuning:
    """Mean KL(final || lens) in nats over held-out rows: of the plain (logit) lens, of the start, and of what
    was kept. kept: "plain", "least squares" or "descent". penalty: of the start (0: it was the plain lens).
    step: of the descent, at which the kept one was found."""

    site: str
    kl_plain: float
    kl_start: float
    kl: float
    kept: str
    penalty: float
    step: int


@dataclass(repr=False)
class TunedLensResult(Result):
    """rows, held_out: to train on, and to measure KL on. lens: `save_tuned_lens` keeps it."""

    sites: list[SiteTuning]
    rows: int
    held_out: int
    steps: int
    seconds: float
    config: dict[str, Any]
    lens: TunedLens = field(compare=False)

    def __getitem__(self, site: str) -> SiteTuning:
        return next(s for s in self.sites if s.site == site)

    def summary(self) -> str:
        columns = ("site", "KL plain", "KL start", "KL tuned", "kept", "at step")
        body = [
            (s.site, number(s.kl_plain), number(s.kl_start), number(s.kl), s.kept, str(s.step))
            for s in self.sites
        ]
        head = (
            f"Tuned lens: {len(self.sites)} sites, {self.rows:,} rows, {self.steps:,} steps; KL to the final "
            f"distribution in nats over {self.held_out:,} held-out rows"
        )
        return "\n".join([head, lines_of(columns, body)])

    def to_pandas(self) -> pandas.DataFrame:
        import pandas

        return pandas.DataFrame([asdict(s) for s in self.sites])

    def plot(self, ax: Axes | None = None) -> Axes:
        ax = axes(ax)
        places = range(len(self.sites))
        ax.plot(places, [s.kl_plain for s in self.sites], "o--", label="logit lens")
        ax.plot(places, [s.kl for s in self.sites], "o-", label="tuned lens")
        ax.set_xticks(places, [s.site for s in self.sites], rotation=45, ha="right")
        ax.set_ylabel("KL to the final distribution (nats)")
        ax.set_ylim(bottom=0)
        ax.legend()
        return ax

    def to_json(self) -> dict[str, Any]:
        """All but the weights."""
        names = ("sites", "rows", "held_out", "steps", "seconds", "config")
        return {name: plain(getattr(self, name)) for name in names}
