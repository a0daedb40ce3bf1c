"""What a trained CLIP of the world ships with: weights in float16, scores, and the curve of its training."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmxai.errors import ModelError
from mmxai.shapes import checkpoint
from mmxai.shapes.model import new_clip, save_clip
from mmxai.shapes.score import SEED, Score, scores
from mmxai.shapes.towers import Towers, load_towers

if TYPE_CHECKING:
    from transformers import CLIPModel

CURVE, SCORES, LOG = "curve.png", "scores.json", "log.jsonl"
CHECK, _CHECKED = "test, few", 256
"""Scores over few enough pictures for a test to take them again."""

Found = dict[str, list[Score]]

_HEAD = """# A CLIP for the shapes world

A `CLIPModel` of {parameters:.1f}M parameters, trained by `python -m mmxai.shapes.train clip` on pictures of
`mmxai.shapes` (version {world}) alone. Its tokenizer knows the world's words and no others; its pictures are
64 x 64. Weights are float16 on disk; use `mmxai.load_model(folder)` or, in plain transformers,
`CLIPModel.from_pretrained(folder, dtype="float32")`.

## Training

{pictures:,} different pictures of the split `train`, seed {seed}, each seen once: {step:,} steps of {batch}
{whole}. AdamW, learning rate {rate:g}, steady after a warm-up, falling over the last 30%.
Loss: for each kind of sentence, every true pair of picture and sentence against all false ones of the batch,
both ways. {paired:.0%} of the pictures are near scenes of others in the batch (two objects exchange an
attribute or their places, or one changes), and each sentence brings up to {negatives} false swap(s) of
itself. No object of these pictures has an attribute pair of `mmxai.shapes.scene.HELD_OUT`.

![loss and held-out scores](curve.png)

## Scores

Shares of right answers with 95% bootstrap intervals over pictures, on the float16 weights. `test`:
pictures never trained on, of the same distribution. `compositional`: every picture has an object with an
attribute pair never seen in training. `untrained`: the same network with random weights, on `test`.

Retrieval: full captions, unambiguous and each true of one picture of the group. Zero-shot: pictures of one
object, prompts such as "a red object". Binding: the true caption against the same with two objects'
attributes exchanged, or with the relation turned around.

"""


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
    trained = load_towers(source)
    export(trained.model, out)
    untrained = Towers(new_clip(settings["seed"]))
    found = {
        "test": scores(trained, "test", pictures=pictures),
        "compositional": scores(trained, "compositional", pictures=pictures),
        "untrained": scores(untrained, "test", pictures=pictures),
        CHECK: scores(trained, "test", pictures=_CHECKED),
    }
    table = {name: [s.to_json() for s in values] for name, values in found.items()}
    (out / SCORES).write_text(json.dumps({"seed": SEED, "scores": table}, indent=1) + "\n")
    draw_curve([e for e in entries if e["step"] <= at], out / CURVE)
    whole = f"in {state['seconds'] / 3600:.1f} hours" if at == last else f"of the {last:,} of the whole run"
    head = _HEAD.format(
        parameters=sum(p.numel() for p in trained.model.parameters()) / 1e6,
        pictures=at * settings["batch"],
        step=at,
        whole=whole,
        **settings,
    )
    del found[CHECK]
    (out / "README.md").write_text(head + _table(found))
    return found


def _table(found: Found) -> str:
    lines = [f"| score | chance | {' | '.join(found)} |", "| --- | --- |" + " --- |" * len(found)]
    for row in zip(*found.values(), strict=True):
        cells = [f"{s.value:.1%} [{s.low:.1%}, {s.high:.1%}] of {s.n:,}" for s in row]
        lines.append(f"| {row[0].name} | {row[0].chance:.1%} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_curve(entries: list[dict[str, Any]], path: Path) -> None:
    """Loss and held-out scores by step, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    curve = [(e["step"], e["loss"]) for e in entries if "loss" in e]
    left.plot(*zip(*curve, strict=True), lw=1)
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    scored = [e for e in entries if "scores" in e]
    for name in scored[-1]["scores"] if scored else ():
        right.plot([e["step"] for e in scored], [e["scores"][name] for e in scored], lw=1.2, label=name)
    right.set(xlabel="step", ylabel="share right, split val", ylim=(0, 1.02))
    right.legend(fontsize=7, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
