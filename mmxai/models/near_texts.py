"""What a CLIP's text tower calls a direction of a site, as a latent's or a component's: the texts nearest to
it in the joint space.

A direction of a tower's residual stream and an embedded text are vectors of different spaces. They meet only
behind the tower's final norm and projection, so a direction d is taken there, as it would arrive if the
residual stream gained it: with the norm's scale, which depends on the input, held fixed, layer norm is
linear, and up to that positive factor

    v = P (gamma * (d - mean(d)))

(the convention of direct logit attribution, Elhage et al. 2021; of CLIP: Gandelsman et al. 2024,
arXiv:2310.05916). The two modalities lie apart in the joint space (Liang et al. 2022, arXiv:2203.02053), so
each is centred: v is a difference, from which the images' mean has dropped out; texts lose their own mean.
What is read off is a direct path, past whatever lies behind the site. Only of the last block's `mlp_post`,
`mlp_out` and `resid_post`, at the token that is pooled, is it all there is (`NearTexts.exact`). Of earlier
sites it is a guess: in the shapes world texts nearer than chance were no names of what drives an SAE's
latents there.

Any direction has some nearest text. What random directions reach, with the same texts, stands beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mmxai.errors import ArgumentError
from mmxai.results import Result, axes, plain

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.models import Model

DIRECTIONS = 1000
"""Random directions of the null."""

_RESIDUAL = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
_EXACT = ("mlp_post", "mlp_out", "resid_post")  # of the last block
_BATCH = 256


@dataclass(frozen=True)
class NearText:
    """`beaten`: the share of random directions whose own best text is at least as near."""

    text: str
    cosine: float
    beaten: float


@dataclass(frozen=True, repr=False)
class NearTexts(Result):
    """The nearest texts of some units: `index` (into `texts`) int64, `cosine` float32 `[U, n]`, best first.

    `null`: the best cosine of each random direction, ascending. `how`: the path to the joint space, in words;
    `exact`: nothing but that path leads there.
    """

    units: list[int]
    texts: list[str]
    index: np.ndarray
    cosine: np.ndarray
    null: np.ndarray
    how: str
    exact: bool

    def of(self, unit: int) -> list[NearText]:
        at = self.units.index(unit)
        return [
            NearText(self.texts[t], float(c), float((self.null >= c).mean()))
            for t, c in zip(self.index[at], self.cosine[at], strict=True)
        ]

    def null_level(self, quantile: float) -> float:
        """What so large a share of random directions stays below."""
        return float(np.quantile(self.null, quantile))

    def to_pandas(self) -> pandas.DataFrame:
        """A row a unit and text."""
        import pandas

        rows = [
            {"unit": n, "rank": i, "text": t.text, "cosine": t.cosine, "beaten": t.beaten}
            for n in self.units
            for i, t in enumerate(self.of(n))
        ]
        return pandas.DataFrame(rows, columns=["unit", "rank", "text", "cosine", "beaten"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Best cosines of the units beside those of random directions."""
        ax = axes(ax)
        bins = np.histogram_bin_edges(np.concatenate([self.null, self.cosine[:, 0]]), 40).tolist()
        ax.hist(self.null, bins, density=True, alpha=0.5, label=f"{len(self.null)} random directions")
        ax.hist(self.cosine[:, 0], bins, density=True, alpha=0.5, label=f"{len(self.units)} units")
        ax.set_xlabel("cosine of the nearest text")
        ax.legend()
        return ax

    def to_json(self) -> dict[str, Any]:
        """Each unit's texts, and the null."""
        units = {str(n): plain(self.of(n)) for n in self.units}
        return {"units": units, "null": plain(self.null), "how": self.how, "exact": self.exact}

    def summary(self) -> str:
        above = int((self.cosine[:, 0] > self.null_level(0.95)).sum())
        return (
            f"NearTexts({len(self.units)} units, {len(self.texts):,} texts: {above} units are nearer "
            f"to one than 95% of {len(self.null)} random directions to any)"
        )


def near_texts(
    model: Model,
    site: str,
    directions: torch.Tensor,
    texts: Sequence[str],
    units: Sequence[int] | None = None,
    *,
    number: int = 8,
    random: int = DIRECTIONS,
    tokens: str | None = None,
    seed: int = 0,
) -> NearTexts:
    """The `number` nearest of `texts` to each direction `[U, D]` at `site`; see the module for how.

    units: what the directions are called, `[U]`; default: 0, 1, ... random: directions of the null. tokens:
    types of the rows that the directions are of, comma-separated (None: any), for `exact`. Raises
    ArgumentError where the model has no joint space, or the site does not write to the residual stream of its
    tower in one linear step.
    """
    texts = list(dict.fromkeys(texts))
    units = list(range(len(directions))) if units is None else [int(u) for u in units]
    if len(texts) < 2 or random < 1:
        raise ArgumentError(
            f"near_texts: got {len(texts)} different texts and {random} random directions, expected at "
            "least two texts (their mean is subtracted) and one direction"
        )
    path = JointPath(model, [site])
    width = model.sites()[site]
    if directions.ndim != 2 or tuple(directions.shape) != (len(units), width):
        raise ArgumentError(
            f"near_texts: got directions {tuple(directions.shape)} for {len(units)} units, expected "
            f"({len(units)}, {width}), the width of {site}"
        )
    drawn = torch.randn(random, width, generator=torch.Generator().manual_seed(seed))
    embedded = embed_texts(model, texts)
    embedded = nn.functional.normalize(embedded - embedded.mean(0), dim=1)
    null = (nn.functional.normalize(path(drawn), dim=1) @ embedded.T).amax(1)
    own = path(directions.detach().float().cpu())
    cosine, index = (nn.functional.normalize(own, dim=1) @ embedded.T).topk(min(number, len(texts)), dim=1)
    exact = path.exact and _pooled(tokens)
    how = path.how if exact else f"{path.how} It leaves out what comes after these rows: a guess, no name."
    null = null.sort().values
    return NearTexts(units, texts, index.numpy(), cosine.numpy(), null.numpy(), how, exact)


def _pooled(tokens: str | None) -> bool:
    """Whether the tower's pooled token may be among rows of these types: patches never are."""
    return not tokens or not set(tokens.split(",")) <= {"patch", "register"}


class JointPath:
    """The linear path of directions at a site, `[N, D]`, to the joint space, `[N, J]`, up to a factor > 0."""

    def __init__(self, model: Model, sites: Sequence[str]):
        if (reason := self.missing(model, sites)) is not None:
            raise ArgumentError(f"near_texts: {reason}")
        site = sites[0]
        tower = site.partition(".")[0]
        self._matrices = [] if _is_residual(site) else [_weight(_module(model, site))]
        norm = _module(model, f"{tower}.ln_final")
        self._gain = None if norm.weight is None else _weight(norm)
        self._projection = _weight(_module(model, f"{tower}.embeds"))
        blocks = [part for name in model.towers[tower].sites if (part := name.split(".")[1]).isdecimal()]
        last = site.split(".")[1] == max(blocks, key=int)
        self.exact = last and site.rpartition(".")[2] in _EXACT
        first = "the block's own output matrix, " if self._matrices else ""
        self.how = f"Path: {first}the {tower} tower's final norm (its scale held fixed) and projection."

    @staticmethod
    def missing(model: Model, sites: Sequence[str]) -> str | None:
        """Why directions of `sites` have no such path in `model`; None where they have."""
        if len(sites) != 1:
            return f"got directions over the sites {list(sites)}, expected those of one site"
        tower = sites[0].partition(".")[0]
        needed = [sites[0], f"{tower}.ln_final", f"{tower}.embeds", "text.embeds"]
        if lacking := [site for site in needed if site not in model.sites()]:
            return f"{model.name} has no site {', '.join(lacking)}, expected a CLIP with both projections"
        norm, projection = _module(model, needed[1]), _module(model, needed[2])
        if not isinstance(norm, nn.LayerNorm) or not isinstance(projection, nn.Linear):
            return (
                f"{model.name} ends in {type(norm).__name__} and {type(projection).__name__}, expected a "
                "LayerNorm and a Linear"
            )
        point = model.towers[tower].sites[sites[0]].point
        if not _is_residual(sites[0]) and not (point.side == "in" and isinstance(point.module, nn.Linear)):
            return (
                f"{sites[0]} does not reach the residual stream by one matrix, expected one in or added to "
                f"the residual stream ({', '.join(_RESIDUAL)}), mlp_post or z"
            )
        return None

    def __call__(self, directions: torch.Tensor) -> torch.Tensor:
        x = directions
        for matrix in self._matrices:
            x = x @ matrix.T
        x = x - x.mean(1, keepdim=True)
        x = x if self._gain is None else x * self._gain
        return x @ self._projection.T


def _is_residual(site: str) -> bool:
    return site.rpartition(".")[2] in _RESIDUAL


def _module(model: Model, site: str) -> nn.Module:
    """The module that a site goes into or comes out of."""
    return model.towers[site.partition(".")[0]].sites[site].point.module


def _weight(module: nn.Module) -> torch.Tensor:
    return module.get_parameter("weight").detach().float().cpu()


def embed_texts(model: Model, texts: Sequence[str]) -> torch.Tensor:
    """Texts in the joint space, of norm 1: float32 `[T, J]`."""
    found = []
    for start in range(0, len(texts), _BATCH):
        run = model.run(list(texts[start : start + _BATCH]), capture=["text.embeds"], stop=True)
        found.append(run.acts["text.embeds"][:, 0].float().cpu())
    return nn.functional.normalize(torch.cat(found), dim=1)


def phrases(captions: Iterable[str], most: int = 2000, longest: int = 3) -> list[str]:
    """Candidate texts out of captions: their words and runs of up to `longest` words, the commonest first.

    Runs begin and end with a word that says something, so that "a red" and "on the" are no candidates.
    """
    counts: Counter[str] = Counter()
    for caption in captions:
        for run in _runs(caption, longest):
            if run[0] not in _FUNCTION_WORDS and run[-1] not in _FUNCTION_WORDS:
                counts[" ".join(run)] += 1
    return [text for text, _ in counts.most_common(most)]


def mentions(captions: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Which of `texts` (as `phrases` gives them) stand in each caption: bool `[captions, texts]`."""
    place = {text: i for i, text in enumerate(texts)}
    longest = max((text.count(" ") + 1 for text in texts), default=0)
    found = np.zeros((len(captions), len(texts)), bool)
    for row, caption in zip(found, captions, strict=True):
        row[[place[t] for run in _runs(caption, longest) if (t := " ".join(run)) in place]] = True
    return found


def _runs(caption: str, longest: int) -> Iterator[list[str]]:
    """Runs of 1 to `longest` words of a caption."""
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", caption.lower())
    for length in range(1, longest + 1):
        for start in range(len(words) - length + 1):
            yield words[start : start + length]


_FUNCTION_WORDS = frozenset(re.findall(r"\w+", "a an the and or of to in on at by for from with is are be"))
