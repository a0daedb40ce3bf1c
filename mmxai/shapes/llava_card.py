"""What the world's trained LLaVA ships with: weights in float16, scores, and the curve of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmxai.errors import ModelError
from mmxai.shapes import checkpoint
from mmxai.shapes.card import CURVE, FEW, LOG, SCORES, Found, command, table, to_json
from mmxai.shapes.llava_feed import KINDS, RELATED, SENTENCE
from mmxai.shapes.llava_model import export, learning, load_llava, new_llava
from mmxai.shapes.llava_score import scores
from mmxai.shapes.relative import DESCRIBE
from mmxai.shapes.score import SEED

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


def write_card(run: Path, out: Path, *, pictures: int = 1024) -> Found:
    """Copies the run's model to `out`, scores it, draws the curve, writes README.md and scores.json.

    Raises ModelError where the run has not come to its end.
    """
    source = run / "model"
    if not source.is_dir():
        raise ModelError(f"{source}: got no such model of the run, expected one that was trained to its end")
    entries = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    state = checkpoint.read_state(run)
    settings = state["settings"]
    out.mkdir(parents=True, exist_ok=True)
    export(load_llava(source), out)
    trained = load_llava(out)
    untrained = new_llava(settings["seed"], settings["blocks"], settings["width"])
    found, few = scored(trained, untrained, pictures), scored(trained, untrained, FEW)
    kept = {"seed": SEED, "scores": to_json(found), "few": to_json(few)}
    (out / SCORES).write_text(json.dumps(kept, indent=1) + "\n")
    draw_curve(entries, out / CURVE, settings)
    facts = {
        "command": command(settings, state["steps"], "mmxai.shapes.llava train"),
        "parameters": sum(p.numel() for p in trained.parameters()) / 1e6,
        "trained": sum(p.numel() for p in learning(trained).parameters()) / 1e6,
        "steps": state["steps"],
        "time": f" in {state['seconds'] / 3600:.1f} hours",
        "torch": state["torch"],
        "describe": DESCRIBE,
        "sentence": SENTENCE,
        "more": RELATED,
    }
    head = (Path(__file__).parent / "llava_card.md").read_text().format(**facts, **settings)
    (out / "README.md").write_text(head + table(found))
    return found


def scored(
    trained: LlavaForConditionalGeneration, untrained: LlavaForConditionalGeneration, pictures: int
) -> Found:
    """The columns of the card's table."""
    return {
        "test": scores(trained, "test", pictures=pictures),
        "compositional": scores(trained, "compositional", pictures=pictures),
        "untrained": scores(untrained, "test", pictures=pictures),
    }


def draw_curve(entries: list[dict[str, Any]], path: Path, settings: Mapping[str, Any]) -> None:
    """Loss and held-out scores by step, as a picture; shaded where every question names its object, and where
    more of them are on relations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    curve = [(e["step"], e["loss"]) for e in entries if "loss" in e]
    left.plot(*zip(*curve, strict=True), lw=1)
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    for kind in KINDS:
        points = [(e["step"], e["scores"][kind]) for e in entries if kind in e.get("scores", {})]
        if points:
            right.plot(*zip(*points, strict=True), lw=1.3, label=kind)
    right.set(xlabel="step", ylabel="share right, split val", ylim=(0, 1.02))
    figure.legend(loc="outside right center", fontsize=7, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        last = entries[-1]["step"]
        for start, end in ((0, settings["named"]), (settings["related"], last)):
            if start < last:
                axes.axvspan(start, min(end, last), color="0.5", alpha=0.12, lw=0)
    figure.savefig(path, dpi=100)
