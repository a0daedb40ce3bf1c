"""What a trained CLIP of the world ships with: weights in float16, scores, and the curve of its training."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmxai.errors import ModelError
from mmxai.shapes import checkpoint
from mmxai.shapes.loss import WEIGHTS
from mmxai.shapes.model import new_clip, save_clip
from mmxai.shapes.prompts import middle_prompts, place_prompts, prompts, relation_prompts
from mmxai.shapes.score import SEED, Score, scores
from mmxai.shapes.towers import Towers, load_towers

if TYPE_CHECKING:
    from transformers import CLIPModel

CURVE, SCORES, LOG = "curve.png", "scores.json", "log.jsonl"
FEW = 256
"""Pictures of the scores that a test takes again."""

Found = dict[str, list[Score]]


def export(model: CLIPModel, out: Path) -> Path:
    """The model in float16 with tokenizer and image processor, in folder `out`; returns it."""
    return save_clip(copy.deepcopy(model).half(), out)


def write_card(run: Path, out: Path, *, step: int | None = None, pictures: int = 2048) -> Found:
    """Copies a model of the run to `out`, scores it, draws the curve, writes README.md and scores.json.

    `step`: one that the run kept; None: the trained model. Raises ModelError where the run has no such model.
    """
    source = run / ("model" if step is None else f"step-{step}")
    if not source.is_dir():
        raise ModelError(f"{source}: got no such model of the run, expected one that it has kept")
    entries = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    state = checkpoint.read_state(run)
    settings, last = state["settings"], state["steps"]
    at = last if step is None else step
    out.mkdir(parents=True, exist_ok=True)
    export(load_towers(source).model, out)
    trained, untrained = load_towers(out), Towers(new_clip(settings["seed"]))
    found = {
        "test": scores(trained, "test", pictures=pictures),
        "compositional": scores(trained, "compositional", pictures=pictures),
        "untrained": scores(untrained, "test", pictures=pictures),
    }
    few = {
        "test": scores(trained, "test", pictures=FEW),
        "compositional": scores(trained, "compositional", pictures=FEW),
        "untrained": scores(untrained, "test", pictures=FEW),
    }
    kept = {"seed": SEED, "scores": to_json(found), "few": to_json(few)}
    (out / SCORES).write_text(json.dumps(kept, indent=1) + "\n")
    draw_curve([e for e in entries if e["step"] <= at], out / CURVE, settings["stress"])
    whole = f" in {state['seconds'] / 3600:.1f} hours" if at == last else f", of {last:,} of the whole run"
    facts = {
        "command": command(settings, last),
        "parameters": sum(p.numel() for p in trained.model.parameters()) / 1e6,
        "pictures": at * settings["batch"],
        "step": at,
        "whole": whole,
        "torch": state["torch"],
        "fresh": 1 - settings["paired"],
        "prompts": len(prompts()),
        "places": len(place_prompts()) + len(middle_prompts()),
        "relations": len(relation_prompts()),
        "weights": ", ".join(f"{kind} {weight:g}" for kind, weight in WEIGHTS.items()),
        "stressed": "".join(
            f"; {kind} ten times that in steps {int(start):,} to {int(end):,}"
            for kind, start, end in (text.split(":") for text in settings["stress"])
        ),
    }
    head = (Path(__file__).parent / "card.md").read_text().format(**facts, **settings)
    (out / "README.md").write_text(head + table(found))
    return found


def command(settings: Mapping[str, Any], steps: int, script: str = "mmxai.shapes.train clip") -> str:
    """The command line that trains the same again."""
    given = " ".join(
        _option(name, value)
        for name, value in {"steps": steps, **settings}.items()
        if name != "world" and value != []
    )
    return f"python -m {script} --out RUN {given}"


def _option(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return " ".join([f"--{flag}", *map(str, value if isinstance(value, list) else [value])])


def table(found: Found) -> str:
    """Scores by split as Markdown."""
    lines = [f"| score | chance | {' | '.join(found)} |", "| --- | --- |" + " --- |" * len(found)]
    for row in zip(*found.values(), strict=True):
        cells = [f"{s.value:.1%} [{s.low:.1%}, {s.high:.1%}] of {s.n:,}" for s in row]
        lines.append(f"| {row[0].name} | {row[0].chance:.1%} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def to_json(found: Found) -> dict[str, list[dict[str, Any]]]:
    """Scores by split as plain JSON."""
    return {name: [s.to_json() for s in values] for name, values in found.items()}


def draw_curve(entries: list[dict[str, Any]], path: Path, stress: Sequence[str] = ()) -> None:
    """Loss and held-out scores by step, as a picture; shaded where a kind of sentence was stressed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    curve = [(e["step"], e["loss"]) for e in entries if "loss" in e]
    left.plot(*zip(*curve, strict=True), lw=1)
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    scored = [e for e in entries if "scores" in e]
    styles = {"retrieval": ":", "zero-shot": "-", "binding,": "--"}
    for number, name in enumerate(scored[-1]["scores"] if scored else ()):
        points = [(e["step"], e["scores"][name]) for e in scored if name in e["scores"]]
        style = styles[name.split()[0]]
        right.plot(*zip(*points, strict=True), style, color=f"C{number % 10}", lw=1.3, label=name)
    right.set(xlabel="step", ylabel="share right, split val", ylim=(0, 1.02))
    if scored:
        figure.legend(loc="outside right center", fontsize=7, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for _, start, end in (text.split(":") for text in stress):
            if int(start) <= entries[-1]["step"]:
                axes.axvspan(int(start), min(int(end), entries[-1]["step"]), color="0.5", alpha=0.12, lw=0)
    figure.savefig(path, dpi=120)
