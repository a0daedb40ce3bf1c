"""The pages of an SAE: what they show is what the store holds, links lead somewhere, a browser shows them."""

import json
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from mmxai.errors import ArgumentError, DataError
from mmxai.report.sae import latent_pages, read_evaluation, read_metrics, survey
from mmxai.store import create_store, open_store
from tests.report.browser import browse, needs_browser
from tests.report.latents import DEAD, SAMPLES, SITE, TEXT, WORLD

EVALUATION = {
    "name": "<run>",
    "metrics": {"rows": 1234},
    "figures": {"FVU": 0.25, "L0": 32.0, "dead": None},
    "nulls": {"PCA": {"name": "PCA", "figures": {"FVU": 0.25, "loss recovered": 0.5}}},
    "missing": {"seed": "<no time>"},
    "concepts": {
        "scores": [
            {"name": name, "level": level, "latent": latent, "f1": f1, "auprc": 0.5, "iou": 0.4, "base": 0.1}
            for name, level, latent, f1 in (
                ("worse", "cell", 3, 0.3), ("<a concept>", "cell", 3, 0.9), ("other", "sample", 5, 0.6),
                ("third", "sample", 7, 0.1),
            )
        ]
    },
}  # fmt: skip
"""As `mmxai sae eval` writes it."""


class _Texts:
    """Nearest texts as `near_texts` gives them, with one that random directions would get."""

    units, texts, null, how = [0, 3], ["<red>", "blue"], np.linspace(0, 0.4, 11), "Path: <p>."
    exact = True

    def of(self, latent):
        near = {0: 0.9, 3: 0.1}[latent]
        return [SimpleNamespace(text="<red>", cosine=near, beaten=0.0)] * 2

    def null_level(self, quantile):
        return float(np.quantile(self.null, quantile))


@pytest.fixture(scope="module")
def pages(held, sae, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    steps = [
        {"step": i, "loss": 1 / (i + 1), "fvu": 0.5 / (i + 1), "l0": 32, "dead": i % 2} for i in range(900)
    ]
    (out / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    runs = {"<k32>": read_metrics(out / "metrics.jsonl"), "k64": read_metrics(out / "metrics.jsonl")}
    common = {"texts": _Texts(), "runs": runs, "facts": {"FVU": "<0.1>"}}
    (out / "eval.json").write_text(json.dumps(EVALUATION))
    common["evaluation"] = read_evaluation(out / "eval.json")
    for latents in ([0, 12], [0, 3, DEAD]):  # the second call's pages replace the first's
        latent_pages(
            sae, held.store, out / "vision", site=SITE, latents=latents, also=[5],
            images=lambda i: WORLD[i].pil, **common,
        )  # fmt: skip
    latent_pages(sae, held.store, out / "text", site=TEXT, latents=4, decode=lambda t: f"<t{t}>", top=5)
    return out


def test_pages_show_the_top_samples(held, pages):
    html = (pages / "vision/latents/0.html").read_text()
    x, rows = held.x[SITE], held.rows["vision"]
    top = html.split("Highest")[1].split("At random")[0]
    shown = [int(n) for n in re.findall(r'src="../pictures/(\d+)\.webp"', top)]
    best = [x[(rows.sample == i).numpy(), 0].max() for i in range(SAMPLES)]
    assert shown[0] == int(np.argmax(best)) and len(set(shown)) == len(shown) >= 4
    assert [best[i] for i in shown] == sorted((best[i] for i in shown), reverse=True)
    with Image.open(pages / f"vision/pictures/{shown[0]}.webp") as picture:
        assert (np.asarray(picture.convert("RGB")) == WORLD[shown[0]].image).all()
    assert "It is active in no row" in (pages / f"vision/latents/{DEAD}.html").read_text()


def test_a_dead_neighbour_shows_no_pictures(held, sae, tmp_path):
    """The list of a dead latent's top rows holds rows, too: where it is 0."""
    twin = SimpleNamespace(spec=sae.spec, W_enc=sae.W_enc, W_dec=sae.W_dec.clone())
    twin.W_dec[DEAD] = twin.W_dec[3]
    latent_pages(twin, held.store, tmp_path, site=SITE, latents=[3], images=lambda i: WORLD[i].pil)
    near = (tmp_path / "latents/3.html").read_text().split("Nearest direction")[1].split("Active together")[0]
    first, second = near.split('<span class="few">')[1:3]
    assert f"<span>{DEAD}</span>" in near and "<img" not in first and "<img" in second


def test_pages_are_escaped_and_every_link_leads_somewhere(pages):
    every = sorted(pages.rglob("*.html"))
    assert len(every) == 2 + (3 + 1) + 4
    for page in every:
        html = page.read_text(encoding="utf-8")
        assert html.count("<script") == 1 and "alert(0)</script" not in html
        for unsafe in (
            "<red>",
            "<p>",
            "<a concept>",
            "<of a test>",
            "<k32>",
            "<0.1>",
            "<t3>",
            "<key 1>",
            "<run>",
            "<no time>",
        ):
            assert unsafe not in html
        assert not re.search(r"url\(|@import|https?://", html)
        for address in re.findall(r'(?:src|href)="([^"]+)"', html):
            assert address.startswith("data:") or (page.parent / address).is_file()
        for svg in re.findall(r'<svg class="plot.*?</svg>', html, re.S):
            ElementTree.fromstring(svg)


def test_a_name_that_random_directions_get_too_is_not_shown(pages):
    index = (pages / "vision/index.html").read_text()
    assert index.count("<em>&lt;red&gt;</em>") == 1  # latent 0; 3 is no nearer than random directions are
    assert "&lt;a concept&gt;, F1 0.90</em>" in index and "1 never" in index
    assert 'class="name weak">&lt;red&gt;' in (pages / "vision/latents/3.html").read_text()
    assert index.count("nearest text</option>") == 1
    assert "l0" not in re.findall(r"<h3>(\w+) <span>", index)  # it never changed


def test_texts_are_shown_around_their_top_token(held, pages):
    page = next((pages / "text/latents").glob("*.html")).read_text()
    assert "<mark>&lt;t" in page and "<img" not in page and "of its total" in page
    assert "top token" in page and 'id="heat"' not in page
    assert 'id="heat"' not in (pages / "text/index.html").read_text()


def test_figures_stand_beside_those_of_the_nulls(pages, tmp_path):
    table = read_evaluation(pages / "eval.json")
    assert table.columns == ["<run>", "PCA"] and table.over == 1234
    assert ("FVU", [0.25, 0.25]) in table.rows and ("loss recovered", [None, 0.5]) in table.rows
    index = (pages / "vision/index.html").read_text()
    assert "<td>loss recovered</td><td>–</td><td>0.5</td>" in index and "seed: &lt;no time&gt;" in index
    for wrong in ([], {**EVALUATION, "figures": None}, {**EVALUATION, "concepts": {"scores": [{}]}}):
        (tmp_path / "eval.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match="mmxai sae eval"):
            read_evaluation(tmp_path / "eval.json")


def test_known_concepts_lead_to_their_latents(pages):
    table = read_evaluation(pages / "eval.json")
    assert [k.name for k in table.known] == ["<a concept>", "other", "worse", "third"]
    assert table.notes() == {3: "<a concept>, F1 0.90", 5: "other, F1 0.60", 7: "third, F1 0.10"}
    index = (pages / "vision/index.html").read_text()
    assert '<td>&lt;a concept&gt;</td><td>patch</td><td><a href="latents/3.html">3</a></td>' in index
    assert '<td>other</td><td>sample</td><td><a href="latents/5.html">5</a></td><td>0.60</td>' in index
    assert "<td>third</td><td>sample</td><td>7</td><td>0.10</td><td>0.50</td><td>–</td>" in index
    # A page of its own, but no place among those drawn at random.
    assert 'data-latent="5"' not in index and 'data-latent="3"' in index
    assert "other, F1 0.60" in (pages / "vision/latents/5.html").read_text()


def test_refuses(held, sae, tmp_path):
    with pytest.raises(ArgumentError, match="expected one"):
        latent_pages(sae, held.store, tmp_path)
    with pytest.raises(ArgumentError, match=r"latents \[20\]"):
        latent_pages(sae, held.store, tmp_path, site=SITE, latents=[20])
    for wrong in ({"top": 0}, {"latents": 0}, {"latents": -1}, {"neighbours": 0}):
        with pytest.raises(ArgumentError, match="at least 1"):
            latent_pages(sae, held.store, tmp_path, site=SITE, **wrong)
    other = SimpleNamespace(spec=SimpleNamespace(**{**vars(sae.spec), "latents": 21}))
    with pytest.raises(ArgumentError, match="the SAE has 21"):
        latent_pages(other, held.store, tmp_path, site=SITE)
    with create_store(tmp_path / "dense", {"a": 4}, durable=False) as writer:
        writer.write(["x"], {"a": torch.ones(1, 4)})
    with open_store(tmp_path / "dense") as dense, pytest.raises(ArgumentError, match="stored as topk"):
        survey(dense, "a", [0])


@needs_browser
@pytest.mark.parametrize("name", ["vision/index.html", "vision/latents/0.html"])
def test_a_browser_shows_the_pages(pages, tmp_path, name):
    """Every picture decodes, no script fails, nothing overflows a narrow screen, sorting sorts."""
    script = (
        "const by = get('sort'); if (!by) return {}; by.value = 'cosine'; by.onchange();"
        "return { order: all('[data-latent]').map(c => c.dataset.latent) }"
    )
    shown = browse(pages / name, script, tmp_path)
    assert shown["pictures"] >= 4 and shown["broken"] == 0 and shown["wide"] <= 500 and not shown["errors"]
    assert shown.get("order") == (["0", "3", "19"] if "index" in name else None)
