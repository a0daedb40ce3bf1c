"""Pages of single units: what they show is what was found, links lead somewhere, a browser shows them."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.neurons import NeuronsConfig, RowLabels, neurons
from mmxai.report.neurons import Panel, Plot, choose, unit_pages
from mmxai.report.plots import curves
from mmxai.store import create_store, open_store
from mmxai.types import TOKEN_CODES, Rows
from tests.report.browser import browse, needs_browser
from tests.report.latents import CELLS, SAMPLES, WORDS, WORLD

SITE, TEXT, UNITS, DETECTOR, CONSTANT = "vision.1.mlp_post", "text.0.z", 12, 7, 9


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    made = torch.Generator().manual_seed(0)
    cells = torch.arange(CELLS).repeat(SAMPLES)
    rows = {
        "vision": Rows.make(
            sample=torch.arange(SAMPLES).repeat_interleave(CELLS), position=cells, image=0, y=cells // 4,
            x=cells % 4, token_type=TOKEN_CODES["patch"],
        ),
        "text": Rows.make(
            sample=torch.arange(SAMPLES).repeat_interleave(WORDS),
            position=torch.arange(WORDS).repeat(SAMPLES),
            token_id=torch.arange(SAMPLES * WORDS) * 7 % 11, token_type=TOKEN_CODES["text"],
        ),
    }  # fmt: skip
    label = torch.rand(SAMPLES * CELLS, generator=made) < 0.1
    x = torch.randn(SAMPLES * CELLS, UNITS, generator=made)
    x[:, DETECTOR] = label.float() * (1 + torch.rand(len(x), generator=made))
    x[:, 2] = -x[:, 1]
    x[:, CONSTANT] = 0
    z = torch.randn(SAMPLES * WORDS, UNITS, generator=made)
    samples = [
        {"key": f"<key {i}>", "text": f"<script>alert({i})</script>", "size": [64, 64],
         "tiles": [{"affine": [1 / 16, 0, 0, 0, 1 / 16, 0], "grid": [4, 4]}]} for i in range(SAMPLES)
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("stores") / "units"
    with create_store(path, {"vision": {SITE: UNITS}, "text": {TEXT: UNITS}}, durable=False) as writer:
        writer.write(samples, {SITE: x, TEXT: z}, rows)

    def of(rows):
        index = rows.sample.long() * CELLS + rows.position.long()
        return np.ones(len(rows), bool), label[index][:, None].numpy()

    with open_store(path) as store:
        labels = RowLabels(("<a label>",), of, how="<made up>")
        found = neurons(store, SITE, NeuronsConfig(exemplars=8), labels)
        heads = neurons(store, TEXT, NeuronsConfig(heads=3))
        yield SimpleNamespace(store=store, found=found, heads=heads, x=x.bfloat16().float().numpy())


@pytest.fixture(scope="module")
def pages(held, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    panels = {DETECTOR: [Panel("Adds to", [("<a red thing>", 0.5), ("less", -0.25)], "mean", "<about>")]}
    line = {"<best>": ([0.0, 1.0, 2.0], [1.0, 0.5, 0.2]), "random": ([0.0, 1.0, 2.0], [1.0, 1.0, 0.9])}
    plots = [Plot("<without>", curves(line, x="units ablated"), "<said>", list(line))]
    for units in ([1, 5], [0, 2, DETECTOR, CONSTANT]):  # the second call's pages replace the first's
        unit_pages(
            held.found, held.store, out / "vision", units, images=lambda i: WORLD[i].pil, panels=panels,
            plots=plots, facts={"fact": "<1>"},
        )  # fmt: skip
    unit_pages(held.heads, held.store, out / "text", [0, 1, 2], heads=3, decode=lambda t: f"<t{t}>")
    return out


def test_pages_show_the_top_samples(held, pages):
    html = (pages / f"vision/units/{DETECTOR}.html").read_text()
    top = html.split("<h2>Highest")[1].split("<h2>At random")[0]
    shown = [int(n) for n in re.findall(r'src="../pictures/(\d+)\.webp"', top)]
    best = held.x[:, DETECTOR].reshape(SAMPLES, CELLS).max(1)
    assert len(shown) == 8 and [best[i] for i in shown] == np.sort(best)[::-1][:8].tolist()
    assert "best for &lt;a label&gt;" in html and "1.000" in html and "Adds to" in html
    assert html.count('<h3 class="band">') >= 4 and "mean by place on the 4 × 4 grid" in html
    silent = (pages / f"vision/units/{CONSTANT}.html").read_text()
    assert "It is above 0 in no row" in silent and "<dd>nan</dd>" not in silent


def test_pages_are_escaped_and_every_link_leads_somewhere(pages):
    every = sorted(pages.rglob("*.html"))
    assert len(every) == 2 + 4 + 3
    for page in every:
        html = page.read_text(encoding="utf-8")
        assert html.count("<script") == 1 and "alert(0)</script" not in html
        for unsafe in ("<a label>", "<a red thing>", "<about>", "<best>", "<said>", "<1>", "<t3>", "<key 1>"):
            assert unsafe not in html
        assert not re.search(r"url\(|@import|https?://", html)
        for address in re.findall(r'(?:src|href)="([^"]+)"', html):
            assert address.startswith("data:") or (page.parent / address).is_file()
        for svg in re.findall(r'<svg class="plot.*?</svg>', html, re.S):
            ElementTree.fromstring(svg)


def test_the_index_names_the_best_unit_and_duplicates(pages):
    index = (pages / "vision/index.html").read_text()
    assert (
        f'<td>&lt;a label&gt;</td><td><a href="units/{DETECTOR}.html">{DETECTOR}</a></td><td>1.000' in index
    )
    assert '1, <a href="units/2.html">2</a>' in index and "&lt;without&gt;" in index
    assert "best AUC</option>" in index
    text = (pages / "text/index.html").read_text()
    assert "3 heads" in text and "best AUC" not in text and "<mark>&lt;t" in text


def test_choose_takes_the_best_units_along(held):
    units, how = choose(held.found, 3)
    assert DETECTOR in units and 3 <= len(units) <= 4 and "tells it best" in how
    assert choose(held.found, 99) == (list(range(UNITS)), f"all {UNITS}")


def test_refuses(held, tmp_path):
    for units, top in (([], 4), ([UNITS], 4), ([1], 0)):
        with pytest.raises(ArgumentError, match="expected some"):
            unit_pages(held.found, held.store, tmp_path, units, top=top)
    with pytest.raises(ArgumentError, match="give the heads"):
        unit_pages(held.heads, held.store, tmp_path, [0])


def test_all_that_was_found_is_json(held, tmp_path):
    saved = json.loads(held.found.save(tmp_path / "neurons.json").read_text())
    assert (
        saved["kind"] == "neuron"
        and len(saved["mean"]) == UNITS
        and saved["labels"]["names"] == ["<a label>"]
    )
    assert saved["kurtosis"][CONSTANT] is None and saved["redundancy"]["groups"] == [[1, 2]]


@needs_browser
@pytest.mark.parametrize("name", ["vision/index.html", f"vision/units/{DETECTOR}.html"])
def test_a_browser_shows_the_pages(pages, tmp_path, name):
    """Every picture decodes, no script fails, nothing overflows a narrow screen, sorting and search work."""
    script = (
        "const by = get('sort'), find = get('find'); if (!by) return {}; by.value = 'auc'; by.onchange();"
        "const first = all('[data-unit]')[0].dataset.unit; find.value = 'no such word'; find.oninput();"
        "return { first, left: get('told').textContent }"
    )
    shown = browse(pages / name, script, tmp_path)
    assert shown["pictures"] >= 4 and shown["broken"] == 0 and shown["wide"] <= 500 and not shown["errors"]
    index = "index" in name
    assert (shown.get("first"), shown.get("left")) == ((str(DETECTOR), "0 of 4") if index else (None, None))


def test_a_silent_unit_is_for_no_class(held, tmp_path):
    """Its class-selectivity is 0 of any class, and the page names none."""
    index = np.zeros(UNITS, np.float32)
    index[DETECTOR] = 0.5
    told = replace(held.found.labels, index={"task": index}, best={"task": np.zeros(UNITS, np.int64)})
    unit_pages(replace(held.found, labels=told), held.store, tmp_path, [DETECTOR, CONSTANT])
    head = {u: (tmp_path / f"units/{u}.html").read_text().split("</dl>")[0] for u in (DETECTOR, CONSTANT)}
    assert "0.5 (&lt;a label&gt;)" in head[DETECTOR]
    assert "selectivity index, task" in head[CONSTANT] and "a label" not in head[CONSTANT]
