"""docs/trace_shapes.md says what docs/trace_study.json holds, and what the model that ships shows again."""

import json
import re
from pathlib import Path

import mmxai
from benchmarks.study.pages import PAGES
from benchmarks.study.traced import (
    CLS,
    LAST,
    LLAVA,
    NOUN,
    PICTURE,
    RANDOM,
    REST,
    STREAM,
    pairs,
    study,
)
from mmxai.methods.trace.groups import OBJECT, RING

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "trace_shapes.md").read_text()
ROWS = json.loads((DOCS / "trace_study.json").read_text())["traced"]["rows"]
BEGIN, END = "<!-- study traced: written by python -m benchmarks.study -->", "<!-- /study traced -->"
ALWAYS = {"95%"}  # of the intervals


def blocks(rows, tower, kind, span):
    (row,) = (
        r for r in rows if (r.get("tower"), r.get("kind"), r.get("span")) == (tower, kind, span)
    )  # fmt: skip
    return row["blocks"]


def test_the_tables_are_made_of_the_figures():
    assert PAGE.split(BEGIN)[1].split(END)[0].strip() == PAGES["traced"](ROWS, DOCS)


def test_every_share_in_the_prose_is_in_the_tables():
    before, rest = PAGE.split(BEGIN)
    tables, after = rest.split(END)
    said = set(re.findall(r"\d[\d.]*%", before + after)) - ALWAYS
    assert said and said <= set(re.findall(r"\d[\d.]*%", tables))


def holds(rows, slack):
    """What the issue asks to be shown; `slack`: what fewer pairs may miss."""
    found = {
        span: blocks(rows, "text", STREAM, span) for span in (OBJECT, RING, RANDOM, PICTURE, NOUN, REST, LAST)
    }
    early, late = (0, 1), -1
    assert all(found[OBJECT][b][1] > 0.9 - slack for b in early) and found[OBJECT][late][2] < 0.1 + slack
    assert found[LAST][late][1] > 0.9 - slack and all(found[LAST][b][2] < 0.05 + slack for b in early)
    assert all(high < 0.05 + slack for span in (RANDOM, RING, NOUN, REST) for _, _, high in found[span])
    for both in zip(found[OBJECT], found[LAST], strict=True):
        assert abs(sum(mean for mean, _, _ in both) - 1) < 0.1 + slack
    assert all(low > 0.9 - slack for _, low, _ in blocks(rows, "vision", "resid_post", OBJECT))
    for span in (RANDOM, CLS):
        assert all(high < 0.05 + slack for _, _, high in blocks(rows, "vision", "resid_post", span))


def test_the_study_shows_what_is_said():
    answered = {r["of"]: r for r in ROWS if r["what"] == "answered"}
    logits = {r["of"]: r for r in ROWS if r["what"] == "logits"}
    assert answered["both"]["low"] > 0.85 and answered["both"]["n"] >= 100
    assert logits["clean"]["pairs"] == 64 and logits["clean"]["low"] > 1 and logits["other"]["high"] < -1
    holds(ROWS, 0)


def test_so_does_the_model_that_ships():
    rows = study(mmxai.load_model(LLAVA), pairs(6), 4)
    logits = {r["of"]: r["mean"] for r in rows if r["what"] == "logits"}
    assert logits["clean"] > 1 and logits["other"] < -1
    holds(rows, 0.05)


def test_pairs_differ_in_the_colour_of_the_object_that_is_named():
    found = pairs(12)
    assert len(found) == 12 and len({p.twin.original.index for p in found}) == 12
    for pair in found:
        scene, k = pair.twin.original.scene, pair.twin.change.object
        assert len(scene.objects) > 1 and [t.shape for t in scene.objects].count(pair.shape) == 1
        assert scene.objects[k].shape == pair.shape and scene.objects[k].colour == pair.colours[0]
        assert pair.twin.changed.scene.objects[k].colour == pair.colours[1]
        others = {t.colour for i, t in enumerate(scene.objects) if i != k}
        assert others and not others & set(pair.colours)
