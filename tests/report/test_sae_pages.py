"""The pages of an SAE: what they show is what the store holds, links lead somewhere, a browser shows them."""

import json
import re
import shutil
import subprocess
from itertools import pairwise
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from mmxai.errors import ArgumentError, DataError
from mmxai.report import plots
from mmxai.report.sae import draw_latents, latent_pages, read_evaluation, read_metrics, survey, training_plots
from mmxai.report.sae.near import by_activity, by_direction
from mmxai.report.sae.surveying import BANDS, BINS
from mmxai.report.sae.tally import Draws, Tally
from mmxai.shapes import ShapesWorld
from mmxai.store import create_store, open_store
from mmxai.types import TOKEN_CODES, Rows

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SAMPLES, CELLS, WORDS, M, K = 30, 16, 6, 20, 4
WORLD = ShapesWorld(SAMPLES, seed=1)
SITE, TEXT = "vision.2.resid_post.sae", "text.1.resid_post.sae"
DEAD = 19


def _codes(rows, seed):
    """Sparse, positive, at most K a row; latents 0 and 1 are always active together, the last never."""
    made = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, M, generator=made).bfloat16().float()
    x[:, 2:] *= torch.rand(rows, M - 2, generator=made) < 0.1
    x[:, :2] *= torch.rand(rows, 1, generator=made) < 0.3
    x[:, DEAD] = 0
    values, columns = x.topk(K, 1)
    return torch.zeros_like(x).scatter_(1, columns, values)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A store with its dense codes and row tables, by site."""
    path = tmp_path_factory.mktemp("stores") / "latents.zarr"
    per = CELLS + 1
    cells = torch.arange(per).repeat(SAMPLES) - 1
    patch = cells >= 0
    rows = {
        "vision": Rows.make(
            sample=torch.arange(SAMPLES).repeat_interleave(per), position=cells + 1, image=0,
            y=torch.where(patch, cells // 4, -1), x=torch.where(patch, cells % 4, -1),
            token_type=torch.where(patch, TOKEN_CODES["patch"], TOKEN_CODES["cls"]),
        ),
        "text": Rows.make(
            sample=torch.arange(SAMPLES).repeat_interleave(WORDS),
            position=torch.arange(WORDS).repeat(SAMPLES),
            token_id=torch.arange(SAMPLES * WORDS) * 7 % 11, token_type=TOKEN_CODES["text"],
        ),
    }  # fmt: skip
    samples = [
        {"key": f"<key {i}>", "text": f"<script>alert({i})</script>", "size": [64, 64],
         "tiles": [{"affine": [1 / 16, 0, 0, 0, 1 / 16, 0], "grid": [4, 4]}]} for i in range(SAMPLES)
    ]  # fmt: skip
    acts = {SITE: _codes(SAMPLES * per, 0), TEXT: _codes(SAMPLES * WORDS, 1)}
    sites = {"vision": {SITE: M}, "text": {TEXT: M}}
    with create_store(path, sites, dtype="topk", topk=K, samples_per_part=11, durable=False) as writer:
        writer.write(samples, acts, rows)
    with open_store(path) as store:
        yield SimpleNamespace(store=store, x={s: a.numpy() for s, a in acts.items()}, rows=rows)


@pytest.fixture(scope="module")
def sae():
    made = torch.Generator().manual_seed(5)
    spec = SimpleNamespace(
        arch="topk", k=K, latents=M, sites_in=("vision.2.resid_post",), sites_out=("vision.2.resid_post",),
        width_in=8, notes="<of a test>",
    )  # fmt: skip
    return SimpleNamespace(
        spec=spec, W_enc=torch.randn(M, 8, generator=made), W_dec=torch.randn(M, 8, generator=made)
    )


class _Texts:
    """Nearest texts as `near_texts` gives them, with one that random directions would get."""

    latents, texts, null, how = [0, 3], ["<red>", "blue"], np.linspace(0, 0.4, 11), "Path: <p>."

    def of(self, latent):
        near = {0: 0.9, 3: 0.1}[latent]
        return [SimpleNamespace(text="<red>", cosine=near, beaten=0.0)] * 2

    def null_level(self, quantile):
        return float(np.quantile(self.null, quantile))


def test_the_survey_counts_what_is_in_the_store(held, monkeypatch):
    monkeypatch.setattr("mmxai.report.sae.surveying._ENTRIES", 37 * K)  # many blocks, the last one short
    x, rows = held.x[SITE], held.rows["vision"]
    found = survey(held.store, SITE, range(M), draws=3)
    active = x > 0
    assert found.rows == len(x) and (found.fired == active.sum(0)).all()
    for u, latent in found.latents.items():
        own = active[:, u]
        assert latent.active == own.sum() and (latent.together == (active & own[:, None]).sum(0)).all()
        if u == DEAD:
            assert latent.maximum == 0 and not latent.histogram.any()
            continue
        values = x[own, u]
        assert latent.maximum == values.max() and np.isclose(latent.mean, values.mean())
        edges = np.linspace(0, values.max(), BINS + 1)
        expected = [((values > a) & (values <= b)).sum() for a, b in pairwise(edges)]
        assert (latent.histogram == expected).all()
        for y, cell in np.ndindex(4, 4):
            here = (rows.y == y).numpy() & (rows.x == cell).numpy()
            assert latent.place.cells[y, cell] == active[here, u].sum()
        kinds = {
            k: int(active[(rows.token_type == TOKEN_CODES[k]).numpy(), u].sum()) for k in ("cls", "patch")
        }
        assert latent.place.kinds == {k: n for k, n in kinds.items() if n} and latent.tokens == []
        assert sum(band.size for band in latent.bands) == latent.active
        for band in latent.bands:
            assert len(band.rows) == min(3, band.size) == len(set(band.rows.tolist()))
            assert np.isclose(x[band.rows, u], band.values).all()
            assert ((band.values > band.low) & (band.values <= band.high + 1e-6)).all()
    assert found.latents[0].bands[0].high == found.latents[0].maximum
    assert len(found.latents[0].bands) == BANDS


def test_tokens_by_their_share_of_the_total(held):
    x, ids = held.x[TEXT], held.rows["text"].token_id.numpy()
    for u, latent in survey(held.store, TEXT, [0, 5, DEAD]).latents.items():
        sums = {t: x[ids == t, u].sum() for t in range(11) if (x[ids == t, u] > 0).any()}
        assert [t.token_id for t in latent.tokens] == sorted(sums, key=lambda t: -sums[t])
        for token in latent.tokens:
            assert np.isclose(token.share, sums[token.token_id] / sum(sums.values()))
            assert np.isclose(token.rate, (x[ids == token.token_id, u] > 0).mean())
        assert latent.place.cells.size == 0


def test_what_is_drawn_does_not_depend_on_blocks_and_is_fair(held, monkeypatch):
    def rows(seed):
        return [
            b.rows.tolist() for b in survey(held.store, SITE, [0, 4], draws=5, seed=seed).latents[0].bands
        ]

    whole = rows(0)
    monkeypatch.setattr("mmxai.report.sae.surveying._ENTRIES", 50 * K)
    assert rows(0) == whole != rows(1)
    counts = np.zeros(40)
    for seed in range(300):
        draws = Draws(4)
        for block in np.split(np.arange(40), [7, 25]):
            draws.add(
                np.zeros(len(block), np.int64), block, block * 1.0, np.zeros(len(block), np.int64), seed
            )
        counts[draws.of(0)[0]] += 1
    assert counts.sum() == 1200 and abs(counts - 30).max() < 5 * np.sqrt(30)


def test_latents_are_drawn_among_the_living(held):
    assert draw_latents(held.store, SITE, 100) == sorted(set(range(M)) - {DEAD})
    some = draw_latents(held.store, SITE, 5)
    assert len(some) == 5 and some != draw_latents(held.store, SITE, 5, seed=1)


def test_tally_adds_up():
    tally, made = Tally(), np.random.default_rng(0)
    keys, weights = made.integers(0, 9, 100), made.random(100)
    for part in np.split(np.arange(100), [0, 30, 31]):
        tally.add(keys[part], weights[part])
    assert (tally.counts == np.bincount(keys)).all() and np.allclose(tally.sums, np.bincount(keys, weights))


def test_neighbours(held, sae):
    W = torch.nn.functional.normalize(sae.W_dec, dim=1)
    for u, near in by_direction(sae.W_dec, [0, 7], 4).items():
        cosine = (W @ W[u]).numpy()
        cosine[u] = -2
        assert [n.latent for n in near] == np.argsort(-cosine)[:4].tolist()
        assert np.allclose([n.cosine for n in near], np.sort(cosine)[::-1][:4], atol=1e-6)
    active = held.x[SITE] > 0
    found = survey(held.store, SITE, [0])
    near = by_activity(sae.W_dec, 0, found.latents[0].together, found.fired, found.rows, 3)
    assert near[0].latent == 1
    assert np.isclose(near[0].phi, np.corrcoef(active[:, 0], active[:, 1])[0, 1])
    assert np.isclose(near[0].given, active[active[:, 0], 1].mean())
    assert all(n.phi > 0 and n.latent not in (0, DEAD) for n in near)


@pytest.fixture(scope="module")
def pages(held, sae, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    steps = [
        {"step": i, "loss": 1 / (i + 1), "fvu": 0.5 / (i + 1), "l0": 32, "dead": i % 2} for i in range(900)
    ]
    (out / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    runs = {"<k32>": read_metrics(out / "metrics.jsonl"), "k64": read_metrics(out / "metrics.jsonl")}
    common = {"texts": _Texts(), "runs": runs, "notes": {3: "<a concept>"}, "facts": {"FVU": "<0.1>"}}
    figures = {"metrics": {"rows": 1234, "fvu": 0.25, "l0": 32.0, "dead": None}, "nulls": {}}
    figures |= {"name": "<run>", "nulls": {"PCA": {**figures, "recovered": {"loss": {"recovered": 0.5}}}}}
    (out / "eval.json").write_text(json.dumps(figures))
    common["evaluation"] = read_evaluation(out / "eval.json")
    latent_pages(
        sae, held.store, out / "vision", site=SITE, latents=[0, 3, DEAD], images=lambda i: WORLD[i].pil,
        **common,
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


def test_pages_are_escaped_and_every_link_leads_somewhere(pages):
    every = sorted(pages.rglob("*.html"))
    assert len(every) == 2 + 3 + 4
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
    assert "&lt;a concept&gt;" in index and "1 never" in index
    assert 'class="name weak">&lt;red&gt;' in (pages / "vision/latents/3.html").read_text()
    assert "l0" not in re.findall(r"<h3>(\w+) <span>", index)  # it never changed


def test_texts_are_shown_around_their_top_token(held, pages):
    page = next((pages / "text/latents").glob("*.html")).read_text()
    assert "<mark>&lt;t" in page and "<img" not in page and "of its total" in page


def test_figures_stand_beside_those_of_the_nulls(pages, tmp_path):
    table = read_evaluation(pages / "eval.json")
    assert table.columns == ["<run>", "PCA"] and table.over == 1234
    assert ("FVU", [0.25, 0.25]) in table.rows and ("loss recovered", [None, 0.5]) in table.rows
    assert "<td>loss recovered</td><td>–</td><td>0.5</td>" in (pages / "vision/index.html").read_text()
    (tmp_path / "eval.json").write_text("[]")
    with pytest.raises(DataError, match="mmxai sae eval"):
        read_evaluation(tmp_path / "eval.json")


def test_metrics_survive_a_killed_run(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_text(
        '{"step": 1, "rows": 9, "lr": 0.1, "fvu": 0.5, "note": "x"}\n{"step": 2, "fvu": 0.25}\n{"step"'
    )
    assert read_metrics(file) == {"fvu": ([1, 2], [0.5, 0.25]), "lr": ([1], [0.1])}
    assert [p["name"] for p in training_plots({"a": read_metrics(file)})] == ["fvu"]
    for damaged in ('{"step"\n{"step": 1}', '{"fvu": 1}', "[1]"):
        file.write_text(damaged)
        with pytest.raises(DataError, match="line 1"):
            read_metrics(file)


def test_plots_are_to_scale():
    svg = ElementTree.fromstring(plots.histogram([0, 1, 2, 3], [5, 0, 10], x="<x>"))
    heights = [float(bar.get("height")) for bar in svg.iter("rect")]
    assert len(heights) == 2 and np.isclose(heights[1] / heights[0], 2, atol=0.02)
    line = ElementTree.fromstring(plots.curves({"a": ([0, 1, 2, 3], [1, 10, float("nan"), 100])}, log=True))
    (path,) = [p.get("d") for p in line.iter("path") if "line" in (p.get("class") or "")]
    (x0, y0), (x1, y1), (x2, y2) = [map(float, point.split(",")) for point in path[1:].split("L")]
    assert np.isclose((x2 - x0) / 3, x1 - x0, atol=0.2) and np.isclose(y0 - y1, y1 - y2, atol=0.2)
    assert plots.Axis(0, 7, 0, 1).ticks() == [0, 2, 4, 6]
    assert plots.Axis(0.8, 2000, 0, 1, log=True).ticks() == [1, 10, 100, 1000]
    for empty in (
        plots.curves({}),
        plots.curves({"a": ([1], [float("nan")])}),
        plots.curves({"a": ([1], [2])}),
    ):
        ElementTree.fromstring(empty)
    ElementTree.fromstring(plots.cloud(np.full(3, -np.inf), np.zeros(3), names=("a", "b")))


def test_refuses(held, sae, tmp_path):
    with pytest.raises(ArgumentError, match="expected one"):
        latent_pages(sae, held.store, tmp_path)
    with pytest.raises(ArgumentError, match=r"latents \[20\]"):
        latent_pages(sae, held.store, tmp_path, site=SITE, latents=[20])
    other = SimpleNamespace(spec=SimpleNamespace(**{**vars(sae.spec), "latents": 21}))
    with pytest.raises(ArgumentError, match="the SAE has 21"):
        latent_pages(other, held.store, tmp_path, site=SITE)
    with create_store(tmp_path / "dense", {"a": 4}, durable=False) as writer:
        writer.write(["x"], {"a": torch.ones(1, 4)})
    with open_store(tmp_path / "dense") as dense, pytest.raises(ArgumentError, match="stored as topk"):
        survey(dense, "a", [0])


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
@pytest.mark.parametrize("name", ["vision/index.html", "vision/latents/0.html"])
def test_a_browser_shows_the_pages(pages, tmp_path, name):
    """Every picture decodes, no script fails, nothing overflows a narrow screen, sorting sorts."""
    probe = (
        "<script>addEventListener('load', () => { const all = [...document.images]; let order = '';"
        "const by = document.getElementById('sort'); if (by) { by.value = 'cosine'; by.onchange();"
        "order = [...document.querySelectorAll('[data-latent]')].map(c => c.dataset.latent).join('-') }"
        "document.title = 'decoded ' + all.filter(i => i.naturalWidth > 0).length + ' of ' + all.length"
        " + ' wide ' + document.documentElement.scrollWidth + ' errors ' + failed + ' order ' + order })"
        "</script></body>"
    )
    page = pages / name
    html = page.read_text(encoding="utf-8").replace("</body>", probe)
    html = html.replace("<head>", "<head><script>var failed = 0; onerror = () => { failed++ }</script>")
    probed = page.with_name("probed-" + page.name)
    probed.write_text(html, encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,800", "--dump-dom", probed.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    probed.unlink()
    found = re.search(r"<title>decoded (\d+) of (\d+) wide (\d+) errors (\d+) order (\S*)<", done.stdout)
    assert found is not None
    shown, total, wide, errors = map(int, found.groups()[:4])
    assert shown == total >= 4 and wide <= 500 and errors == 0
    assert found[5] == ("0-3-19" if "index" in name else "")
