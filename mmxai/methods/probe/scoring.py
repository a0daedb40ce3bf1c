"""From the scores of test items to figures, beside those of the control tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmxai.methods.probe.bootstrap import Bootstrap, Estimate
from mmxai.methods.probe.calibration import log_probabilities
from mmxai.methods.probe.choosing import Choice
from mmxai.methods.probe.closed import Linear
from mmxai.methods.probe.design import TEST, Cohort, Known
from mmxai.methods.probe.mdl import Codelength
from mmxai.methods.probe.metrics import of_classes, of_labels, of_numbers, reliability
from mmxai.methods.probe.results import Score, mean_of
from mmxai.methods.probe.site_probes import method_of


@dataclass(frozen=True)
class Fitted:
    """A task's or control's probe at one site: `probe` of the chosen penalty alone (P is 1).
    at_edge: that penalty was the smallest or largest candidate; converged: see `Score`."""

    known: Known
    probe: Linear
    choice: Choice
    penalty: float
    at_edge: bool
    converged: bool
    codelength: Codelength | None


def score_site(
    site: str, cohort: Cohort, fitted: list[Fitted], scores: np.ndarray, boot: Bootstrap, method: str,
    confidence: float,
) -> list[Score]:  # fmt: skip
    """A `Score` for each task of a cohort; `scores` float32 `[test, T]`, columns in the order of `fitted`."""
    edges = np.cumsum([0, *(f.known.task.width for f in fitted)])
    own = {id(f): scores[:, a:b] for f, a, b in zip(fitted, edges[:-1], edges[1:], strict=True)}
    made = []
    for one in (f for f in fitted if f.known.control < 0):
        task = one.known.task
        controls = [f for f in fitted if f.known.of == task.name and f.known.control >= 0]
        found = _figures(one, own[id(one)], cohort, boot)
        main = "R2" if task.kind == "regression" else "accuracy"
        control = selectivity = codelength = None
        if controls:
            chance = mean_of([_figures(c, own[id(c)], cohort, boot) for c in controls])
            control = {name: Estimate.of(v, confidence) for name, v in chance.items()}
            selectivity = Estimate.of(found[main] - chance[main], confidence)
            codelength = controls[0].codelength
        made.append(
            Score(
                site, task.name, task.kind, task.level, task.names, method_of(task.kind, method),
                train=int((cohort.fold != TEST).sum()), test=len(scores),
                test_samples=len(np.unique(cohort.samples[cohort.measured])), penalty=one.penalty,
                at_edge=one.at_edge, converged=one.converged, temperature=one.choice.temperature,
                figures={name: Estimate.of(v, confidence) for name, v in found.items()},
                majority=_majority(one.known, cohort), control=control, selectivity=selectivity,
                codelength=one.codelength, control_codelength=codelength,
                confusion=_confusion(one, own[id(one)], cohort),
                reliability=_reliability(one, own[id(one)], cohort),
            )
        )  # fmt: skip
    return made


def _figures(one: Fitted, scores: np.ndarray, cohort: Cohort, boot: Bootstrap) -> dict[str, np.ndarray]:
    task, values = one.known.task, one.known.values[cohort.measured]
    if task.kind == "regression":
        return of_numbers(scores[:, 0], values, boot)
    logp = log_probabilities(task, scores, one.choice.temperature)
    return (of_classes if task.kind == "classes" else of_labels)(scores, logp, values, boot)


def _majority(known: Known, cohort: Cohort) -> float | None:
    """Share of test items that are of the class most training items are of."""
    if known.task.kind != "classes":
        return None
    train = known.values[cohort.fold != TEST]
    return float((known.values[cohort.measured] == np.bincount(train).argmax()).mean())


def _confusion(one: Fitted, scores: np.ndarray, cohort: Cohort) -> np.ndarray | None:
    task = one.known.task
    if task.kind != "classes":
        return None
    table = np.zeros((task.width, task.width), np.int64)
    np.add.at(table, (one.known.values[cohort.measured], scores.argmax(1)), 1)
    return table


def _reliability(one: Fitted, scores: np.ndarray, cohort: Cohort) -> list[tuple[float, float, int]]:
    task = one.known.task
    if task.kind != "classes":
        return []
    answer = scores.argmax(1)
    logp = log_probabilities(task, scores, one.choice.temperature)
    confidence = np.exp(logp[np.arange(len(answer)), answer])
    return reliability(confidence, answer == one.known.values[cohort.measured])
