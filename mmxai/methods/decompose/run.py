"""The main job: fit dictionaries of a site, compare them on held-out samples, name their units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmxai.errors import ArgumentError
from mmxai.linalg import Moments
from mmxai.methods.decompose.comparison import Comparison, Entry, compare
from mmxai.methods.decompose.config import FitConfig, Kind
from mmxai.methods.decompose.dictionary import Dictionary
from mmxai.methods.decompose.fit import centred, fit_dictionary, stream_of
from mmxai.methods.decompose.names import ActivationNames, activation_names, sample_extremes
from mmxai.methods.decompose.pca import moments_of
from mmxai.methods.decompose.stream import RowStream
from mmxai.results import Result

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.labels import Truth
    from mmxai.store.reader import Store

EVALUATED = 16384
DEFAULT: tuple[Kind, ...] = ("pca", "ica", "seminmf", "kmeans", "spherical")


@dataclass(repr=False)
class DecomposeReport(Result):
    """comparison: the table. dictionaries: by kind. names: by kind, of the high end and, for pca and ica, the
    low end; empty where nothing is known of the samples."""

    comparison: Comparison
    dictionaries: dict[str, Dictionary] = field(default_factory=dict)
    names: dict[str, list[ActivationNames]] = field(default_factory=dict)

    def summary(self) -> str:
        told = [f"{kind}: {found.summary()}" for kind, both in self.names.items() for found in both]
        return "\n".join([self.comparison.summary(), *told])

    def to_pandas(self) -> pandas.DataFrame:
        """The comparison, a row a dictionary."""
        return self.comparison.to_pandas()

    def plot(self, ax: Axes | None = None) -> Axes:
        return self.comparison.plot(ax)

    def to_json(self) -> dict[str, Any]:
        return {
            "comparison": self.comparison.to_json(),
            "fits": {kind: d.facts for kind, d in self.dictionaries.items()},
            "names": {kind: [found.to_json() for found in both] for kind, both in self.names.items()},
        }

    def notes(self, kind: str) -> dict[int, str]:
        """Unit -> its name by activation, of those that have one."""
        found: dict[int, str] = {}
        for both in self.names.get(kind, ()):
            for unit in range(len(both.names)):
                if (name := both.name_of(unit)) is not None:
                    low = "" if both.end == "+" else "low: "
                    said = f"{low}{name.text} (AUC {name.auc:.2f})"
                    found[unit] = f"{found[unit]}, {said}" if unit in found else said
        return found


def decompose(
    store: Store,
    site: str,
    kinds: Sequence[Kind] = DEFAULT,
    config: FitConfig | None = None,
    *,
    seeds: int = 1,
    others: Mapping[str, Entry] | None = None,
    truth: Truth | None = None,
    out: str | Path | None = None,
    evaluated: int = EVALUATED,
    say: Callable[[str], object] | None = None,
    **options: Any,
) -> DecomposeReport:
    """Fit every kind to `site`, and compare.

    options: fields of `FitConfig`, over those of `config`. seeds: further fits of each kind, for stability
    (0: none). others: dictionaries that are there already, such as SAEs, by name. truth: what is known of the
    samples, for names. out: folder for a dictionary each (`out/<kind>`) and `decompose.json`. evaluated: most
    rows of the test split that figures are taken from, drawn by the seed. say: called before each step.
    """
    config = replace(config or FitConfig(), **options)
    _check(kinds, seeds, evaluated, others or {})
    width = store[site].width
    if config.units > width and (narrow := sorted({"pca", "ica"} & set(kinds))):
        raise ArgumentError(
            f"decompose: got {config.units} units for rows {width} wide, expected at most {width} of "
            f"{' and '.join(narrow)}"
        )
    held_out = RowStream(store, site, config.tokens, "test", evaluated, config.seed)
    held_out.count()  # SelectionError where there are none, before hours of fits
    told = say or (lambda what: None)
    dictionaries: dict[str, Dictionary] = {}
    entries: dict[str, Entry] = {}
    moments: Moments | None = None
    if any(centred(kind, config) for kind in kinds):
        told("mean and covariance")
        moments = moments_of(stream_of(store, site, config))
    for kind in kinds:
        told(f"{kind}: {config.units} units")
        made = fit_dictionary(store, site, kind, config, moments=moments, say=told)
        dictionaries[kind] = made
        again, note = _again(store, site, kind, config, moments, seeds, told)
        if made.facts.get("converged") is False:
            note = _unsettled(kind, made.facts, config.tol)
        entries[kind] = Entry(
            made, made.directions, tuple(d.directions for d in again), signed=made.signed, note=note
        )
        if out is not None:
            made.save(Path(out) / kind)
    entries |= others or {}
    told("figures on held-out samples")
    report = DecomposeReport(compare(entries, held_out, site), dictionaries)
    if out is not None:  # names may be refused; figures that took hours are kept
        report.save(Path(out) / "decompose.json")
    if truth is not None:
        told("names")
        report.names = names_of(store, dictionaries, truth, seed=config.seed)
        if out is not None:
            report.save(Path(out) / "decompose.json")
    return report


def names_of(
    store: Store, dictionaries: Mapping[str, Dictionary], truth: Truth, *, seed: int = 0
) -> dict[str, list[ActivationNames]]:
    """Names by activation of every dictionary's units, in one pass; of both ends where codes have both
    signs."""
    one = next(iter(dictionaries.values()))
    samples, found = sample_extremes(store, one.site, dict(dictionaries), tokens=one.tokens, seed=seed)
    names: dict[str, list[ActivationNames]] = {}
    for name, (high, low) in found.items():
        names[name] = [activation_names(high, truth, samples, seed=seed)]
        if not dictionaries[name].signed:
            names[name].append(activation_names(low, truth, samples, end="-", seed=seed))
    return names


def _again(
    store: Store,
    site: str,
    kind: Kind,
    config: FitConfig,
    moments: Moments | None,
    seeds: int,
    told: Callable[[str], object],
) -> tuple[list[Dictionary], str]:
    """The same from other seeds; and what to say where another seed changes nothing."""
    if kind == "pca" and config.rows is None:
        return [], "no stability: PCA has no seed (give fewer rows, which a seed draws)" if seeds else ""
    made = []
    for i in range(1, seeds + 1):
        told(f"{kind}: seed {config.seed + i}")
        # Where the seed draws the rows, their moments are others.
        same = moments if config.rows is None else None
        made.append(fit_dictionary(store, site, kind, config, moments=same, say=told, seed=config.seed + i))
    return made, ""


def _unsettled(kind: Kind, facts: Mapping[str, Any], tol: float) -> str:
    """What a reader of the figures has to know of a fit that was stopped."""
    change = facts["change"]
    did = "turned a unit by 1 - |cosine| =" if kind == "ica" else "lowered the error by the share"
    last = "" if change is None else f", the last of which still {did} {change:.1g} (tol {tol:g})"
    return f"not converged in {facts['iterations']} iterations and {facts['passes']} passes{last}"


def _check(kinds: Sequence[Kind], seeds: int, evaluated: int, others: Mapping[str, Entry]) -> None:
    if len(set(kinds)) < len(kinds) or not kinds or seeds < 0 or evaluated < 1:
        raise ArgumentError(
            f"decompose: got kinds {list(kinds)}, seeds={seeds}, evaluated={evaluated}, expected some kinds, "
            "each once, seeds >= 0 and evaluated >= 1"
        )
    if twice := sorted(set(kinds) & set(others)):
        raise ArgumentError(f"decompose: got {twice} among kinds and others, expected different names")
