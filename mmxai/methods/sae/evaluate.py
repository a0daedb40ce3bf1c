"""`evaluate`: all that people report of an SAE, and beside every figure its nulls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mmxai.errors import ArgumentError, SelectionError
from mmxai.labels import Truth
from mmxai.methods.sae.concepts import Concepts, score_concepts
from mmxai.methods.sae.measures import Measures, Metrics
from mmxai.methods.sae.nulls import NULLS, Trainer, config_of, make_null, untrainable
from mmxai.methods.sae.overlap import Overlap, overlap
from mmxai.methods.sae.recovered import Recovered, recovered
from mmxai.methods.sae.rows import (
    check_sites,
    inputs_and_targets,
    selection_of,
    spliced_tokens,
    trained_split,
)
from mmxai.methods.sae.seen import FEWEST_SAMPLES, chosen_rows
from mmxai.models.metrics import Metric
from mmxai.results import Result, axes, lines_of, number, plain

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.methods.sae.model import SAE
    from mmxai.models.model import Model
    from mmxai.store.reader import Store

BATCH = 4096
ENTRIES = 1 << 25
"""Activations held at once while concepts are scored, 24 bytes each."""


@dataclass(frozen=True)
class EvalConfig:
    split: Literal["train", "val", "test"] | None = "test"
    """Which samples to measure on; none: all."""
    rows: int = 131072
    """Rows measured, at most: a seeded draw of the split's."""
    samples: int = 1024
    """Samples on which concepts are scored, at most."""
    nulls: tuple[str, ...] = NULLS
    """Controls to put beside every figure: pca frozen seed untrained. Give '' for none."""
    null_rows: int | None = None
    """Rows that the controls are trained on; default: as many as the SAE. Fewer flatter the SAE."""
    seed: int = 0
    """Of the draws of rows and samples."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nulls", tuple(n for n in self.nulls if n))
        if wrong := [n for n in self.nulls if n not in NULLS]:
            raise ArgumentError(f"sae eval: got nulls {wrong}, expected some of {NULLS}")
        if self.rows < 1 or self.samples < 1 or (self.null_rows is not None and self.null_rows < 1):
            raise ArgumentError(
                f"sae eval: got rows={self.rows}, samples={self.samples}, null_rows={self.null_rows}, "
                "expected positive numbers"
            )


@dataclass(frozen=True)
class Live:
    """The model, batches of held-out samples (each what `Model.prepare` takes; gone through once), and what
    to measure: a name -> `recovered.Metric`."""

    model: Model
    batches: Iterable[Any]
    metrics: Mapping[str, Metric]


@dataclass(repr=False)
class Evaluation(Result):
    """Of one SAE: `metrics`, and where there was what they need `recovered` (by metric) and `concepts`.

    nulls: the same of each control; `missing`: what was asked for and cannot be had, and why. overlap: of the
    `seed` null with the SAE itself.
    """

    name: str
    metrics: Metrics
    recovered: dict[str, Recovered] = field(default_factory=dict)
    concepts: Concepts | None = None
    overlap: Overlap | None = None
    nulls: dict[str, Evaluation] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Name -> value, of this SAE alone."""
        m = self.metrics
        out = {"FVU": m.fvu, "L0": m.l0, "dead": m.dead, "cosine": m.cosine}
        out |= {f"{name} recovered": r.recovered for name, r in self.recovered.items()}
        return out | (self.concepts.means() if self.concepts else {})

    def to_json(self) -> dict[str, Any]:
        """All fields, and `figures`."""
        return super().to_json() | {"figures": plain(self.figures())}

    def to_pandas(self) -> pandas.DataFrame:
        """A row for the SAE and one for each null, a column a figure."""
        import pandas

        rows = {self.name: self.figures()} | {name: e.figures() for name, e in self.nulls.items()}
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("of")

    def summary(self) -> str:
        columns = {self.name: self.figures()} | {name: e.figures() for name, e in self.nulls.items()}
        rows = [
            (figure, *(number(values.get(figure)) for values in columns.values()))
            for figure in columns[self.name]
        ]
        lines = [lines_of(("", *columns), rows)]
        lines += [one.line() for one in self.recovered.values()]
        if "seed" in self.nulls and (twin := self.nulls["seed"].overlap):
            lines.append(f"against another seed: {twin.summary()}")
        lines += [f"missing: {name}: {why}" for name, why in self.missing.items()]
        lines.append(f"over {self.metrics.rows:,} rows")
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """FVU against L0, of the SAE and its nulls."""
        ax = axes(ax)
        for name, one in {self.name: self, **self.nulls}.items():
            ax.scatter(one.metrics.l0, one.metrics.fvu, label=name)
        ax.set(xlabel="L0", ylabel="FVU")
        ax.legend()
        return ax


def evaluate(
    sae: SAE,
    store: Store,
    config: EvalConfig | None = None,
    *,
    truth: Truth | None = None,
    live: Live | None = None,
    untrained: Store | None = None,
    train: Trainer | None = None,
    folder: str | Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measure an SAE, transcoder or crosscoder on held-out samples of a store, and its nulls beside it.

    Rows are of the token types the SAE was trained on. truth: what is known of the data, for concepts.
    live: the model, for what of its loss or accuracy is recovered. untrained: a store of the same sites
    and data from the model with random weights (`nulls.rerandomised`), for that null. train: how nulls
    are trained, by default `train_sae`. folder: where nulls are kept for the next evaluation. say: hears
    what is being done.
    """
    config = config or EvalConfig()
    spec = sae.spec
    check_sites(spec, store)
    wanted, missing = _possible(sae, config, untrained)
    missing |= _not_held_out(sae, config)
    if live is not None and (pool := store.plan.identity.get("selection", {}).get("pool")) is not None:
        missing["recovered"] = f"rows were pooled ({pool}) when harvested: the model has none such to replace"
        live = None
    if truth is not None and (few := _too_few(sae, store, config)) is not None:
        missing["concepts"] = few
        truth = None
    say("measuring")
    metrics, mean = measure({"sae": sae}, store, config)
    l0 = metrics["sae"].l0
    made = {"sae": sae}
    for name in wanted:
        say(f"null {name}")
        made[name] = make_null(
            name, sae, store, l0=l0, rows=config.null_rows, train=train, untrained=untrained,
            folder=None if folder is None else Path(folder),
        )  # fmt: skip
    here = {name: s for name, s in made.items() if name != "untrained"}
    metrics |= measure({n: s for n, s in here.items() if n != "sae"}, store, config)[0]
    alone = {name: s for name, s in made.items() if name == "untrained"}
    if untrained is not None:
        metrics |= measure(alone, untrained, config)[0]
    survived: dict[str, dict[str, Recovered]] = {}
    if live is not None:
        say("splicing into the model")
        survived = recovered(
            live.model, here, live.batches, live.metrics, mean, tokens=spliced_tokens(spec, store)
        )
    concepts: dict[str, Concepts] = {}
    if truth is not None:
        say("concepts")
        samples = _samples(sae, store, config, metrics)
        chosen = {"samples": samples, "seed": config.seed} | selection_of(spec, config.split)
        concepts = score_concepts(here, store, truth, **chosen)
        if untrained is not None and alone:
            concepts |= score_concepts(alone, untrained, truth, **chosen)
    every = {
        name: Evaluation(name, metrics[name], survived.get(name, {}), concepts.get(name)) for name in made
    }
    if "seed" in every:
        every["seed"].overlap = overlap(sae, made["seed"], seed=config.seed)
    found = every.pop("sae")
    found.nulls, found.missing = every, missing
    return found


def measure(
    saes: Mapping[str, SAE], store: Store, config: EvalConfig
) -> tuple[dict[str, Metrics], torch.Tensor]:
    """`Metrics` of every SAE on the same rows, read once, and the rows' mean target, float64 `[E]`."""
    if not saes:
        return {}, torch.empty(0)
    spec = next(iter(saes.values())).spec
    measures = {name: Measures(s.spec) for name, s in saes.items()}
    loader = store.batches(
        BATCH, sites=list(spec.sites), shuffle=True, seed=config.seed, dtype=torch.float32,
        **selection_of(spec, config.split),
    )  # fmt: skip
    left = config.rows
    with loader:
        for batch in loader:
            x, target = (t[:left] for t in inputs_and_targets(spec, batch))
            for name, sae in saes.items():
                codes = sae.encode(x)
                measures[name].update(codes, sae.decode(codes, x), target)
            left -= len(x)
            if not left:
                break
    return {name: m.result() for name, m in measures.items()}, next(iter(measures.values())).mean


def _samples(sae: SAE, store: Store, config: EvalConfig, metrics: Mapping[str, Metrics]) -> int:
    """How many samples concepts are scored on: the same for the SAE and all its nulls."""
    # Early L1 runs have thousands of active latents a row: fewer samples then, which the result tells.
    each = store[sae.spec.sites_in[0]].shape[0] / max(1, len(store.samples))
    entries = each * sum(one.l0 for one in metrics.values())
    return min(config.samples, max(FEWEST_SAMPLES, int(ENTRIES / max(1.0, entries))))


def _too_few(sae: SAE, store: Store, config: EvalConfig) -> str | None:
    """Why concepts cannot be scored, before hours of nulls rather than after."""
    space = store[sae.spec.sites_in[0]].space
    try:
        chosen_rows(store, space, config.samples, config.seed, selection_of(sae.spec, config.split))
    except SelectionError as error:
        return str(error)
    return None


def _possible(sae: SAE, config: EvalConfig, untrained: Store | None) -> tuple[list[str], dict[str, str]]:
    """The nulls that can be made, and of the others why not; what is wrong with their training is raised."""
    possible, missing = [], {}
    for name in config.nulls:
        if name == "untrained" and untrained is None:
            missing[name] = "needs the model and its data, with which the untrained model is harvested"
        elif name != "pca" and (reason := untrainable(sae, config.null_rows)) is not None:
            missing[name] = f"an SAE of another library's, {reason}"
        else:
            possible.append(name)
    if set(possible) - {"pca"}:
        config_of(sae, config.null_rows)
    return possible, missing


def _not_held_out(sae: SAE, config: EvalConfig) -> dict[str, str]:
    """What to say where the SAE was trained on the samples it is measured on."""
    if "train" not in sae.spec.identity:
        return {}
    split = trained_split(sae.spec)
    if split is not None and config.split is not None and split != config.split:
        return {}
    trained, measured = (f"split {s}" if s else "all samples" for s in (split, config.split))
    return {"held-out samples": f"trained on {trained}, measured on {measured}"}
