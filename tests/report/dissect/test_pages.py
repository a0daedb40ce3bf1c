"""A dissection's site: it shows what was found, its links lead somewhere, nothing is unescaped."""

import csv
import json
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mmxai.errors import ArgumentError
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.methods.dissect.tables import layer_table, published, read_published
from mmxai.report.dissect import dissect_pages
from mmxai.report.dissect.layers import table
from mmxai.store import open_store
from tests.report.dissect.outlined import cells
from tests.report.dissect.planted import GRID, SITE, SIZE, Planted, make, picture

UNITS, PICTURES, CONCEPTS = 70, 50, 20


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    home = tmp_path_factory.mktemp("site")
    make(home / "acts.zarr", UNITS, PICTURES, CONCEPTS)
    concepts = Planted(PICTURES, CONCEPTS)
    with open_store(home / "acts.zarr") as store:
        config = DissectConfig(bootstrap=20, min_fired=130, top=6)
        found = dissect(store, concepts, config)
        tables = {name: published(one) for name, one in found.sites.items()}
        told = []
        shown = dissect_pages(
            found, store, home / "site", concepts=concepts, images=picture, tables=tables,
            progress=told.append,
        )  # fmt: skip
        blank = dissect_pages(found, store, home / "blank", concepts=concepts)
        yield SimpleNamespace(
            home=home, store=store, concepts=concepts, found=found, one=found[SITE], shown=shown,
            blank=blank, told=told,
        )  # fmt: skip


def data(home, name):
    """What `name`.js hands over."""
    text = (home / f"{name}.js").read_text(encoding="utf-8")
    start = f'loaded("{name}",'
    assert text.startswith(start) and text.endswith(")\n")
    return json.loads(text[len(start) : -2])


def records(home, about):
    chunks = -(-UNITS // about["chunk"])
    return [record for k in range(chunks) for record in data(home, f"data/0/{k}")]


def test_records_say_what_was_found(held):
    site, one = held.home / "site", held.one
    about, index = data(site, "data/site"), data(site, "data/0/index")
    every = records(site, about)
    assert len(every) == UNITS == len(index["label"]) and index["label"] == one.label.tolist()
    assert index["iou"] == np.rint(1000 * one.best).tolist()
    assert [s == 1 for s in index["state"]] == one.detectors().tolist() and 5 < sum(one.detectors()) < UNITS
    assert [s == 2 for s in index["state"]] == one.rare.tolist() and one.rare.any()
    assert [c[0] for c in about["concepts"]] == [c.name for c in one.concepts]
    assert [about["categories"][c[1]] for c in about["concepts"]] == [c.category for c in one.concepts]
    frame = one.to_pandas()
    for unit, record in enumerate(every):
        assert [c[0] for c in record["c"]] == [k for k in one.candidates[unit].tolist() if k >= 0]
        for (number, *values), at in zip(record["c"], range(9), strict=False):
            expected = one.iou[unit, at], one.low[unit, at], one.high[unit, at], one.ceiling[number]
            assert np.allclose(values, expected, rtol=5e-3, atol=0)
        assert record["n"] == one.fired[unit] and np.isclose(record["t"], one.threshold[unit], rtol=1e-3)
        expected = frame.loc[unit, ["precision", "recall", "f1", "correlation"]]
        if record["c"]:
            assert np.allclose(record["m"], expected.astype(float), rtol=5e-3, atol=0)
            told = one.auprc[unit, 0], one.auprc_bound[unit, 0]
            assert np.allclose(record["a"], told, rtol=6e-2, atol=0) and "f" not in record
    assert about["sites"][0]["controls"] == [
        [c.name, pytest.approx(c.level(), rel=1e-3)] for c in one.controls.values()
    ]


def test_exemplars_are_pictures_with_their_masks(held):
    site, one = held.home / "site", held.one
    about = data(site, "data/site")
    who = held.store[SITE].rows.gather(np.arange(PICTURES * GRID * GRID)).sample.numpy()
    first = {int(s): int(np.flatnonzero(who == s)[0]) for s in range(PICTURES)}
    for unit, record in enumerate(records(site, about)):
        there = one.top_rows[unit] >= 0
        samples = held.store[SITE].rows.gather(one.top_rows[unit][there]).sample.tolist()
        assert len(record["p"]) == len(samples)
        for (number, value, tile, outline), sample, top in zip(
            record["p"], samples, one.top_values[unit], strict=False
        ):
            said = data(site, f"pictures/{number // 16}")[number % 16]
            assert said[0] == f"<p{sample}>.jpg" and said[1:3] == list(SIZE) and tile == 0
            assert value == pytest.approx(float(top), rel=5e-3)
            rows = np.arange(first[sample], first[sample] + GRID * GRID)
            values, columns = held.store[SITE].entries(rows)
            field = np.where(columns == unit, values.float(), 0).sum(1).reshape(GRID, GRID)
            assert np.array_equal(cells(outline, GRID, GRID), field > one.threshold[unit])


def test_every_picture_is_in_its_place(held):
    site = held.home / "site"
    sheets = sorted((site / "pictures").glob("*.webp"))
    assert len(sheets) == -(-held.shown.pictures // 16)
    for path in sheets:
        sheet = np.asarray(Image.open(path).convert("RGB"), float)
        for k, (key, _, _, _, w, h, _, _) in enumerate(data(site, f"pictures/{path.stem}")):
            top, left = k // 4 * held.shown.side, k % 4 * held.shown.side
            seen = sheet[top : top + h, left : left + w]
            number = int(re.findall(r"\d+", key)[0])
            original = np.asarray(picture(number).resize((w, h), Image.Resampling.LANCZOS), float)
            assert abs(seen - original).mean() < 12 < abs(seen - original[::-1]).mean()


def test_licences_go_with_the_pictures(held):
    site = held.home / "site"
    about = data(site, "data/site")
    with open(site / "licences.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == held.shown.pictures
    unstated = 0
    for k, line in enumerate(lines):
        sample = int(re.findall(r"\d+", line["picture"])[0])
        licence = held.concepts.picture_licence(sample) or "no licence stated"
        unstated += licence == "no licence stated"
        assert line["licence"] == licence == about["licences"][data(site, f"pictures/{k // 16}")[k % 16][3]]
    assert held.shown.unstated == unstated > 0 and "no licence" in str(held.shown)


def test_pages_are_escaped_and_every_link_leads_somewhere(held):
    for site in (held.home / "site", held.home / "blank"):
        pages = sorted(site.rglob("*.html"))
        assert [p.relative_to(site).as_posix() for p in pages] == [
            "index.html", f"sites/{SITE}.html", "unit.html",
        ]  # fmt: skip
        for page in pages:
            html = page.read_text(encoding="utf-8")
            for unsafe in ("<concept", "<script>alert", "<p1", "<maps>", "<b>\n", "CC0 <b>"):
                assert unsafe not in html
            assert not re.search(r"url\(|@import|https?://", html)
            for address in re.findall(r'(?:src|href)="([^"]+)"', html):
                assert (page.parent / address).is_file() or address.startswith("#label=%3Cconcept%20")
            for svg in re.findall(r'<svg class="plot.*?</svg>', html, re.S):
                ElementTree.fromstring(svg)
        script = (site / "pages.js").read_text()
        assert "innerHTML" not in script and "fetch(" not in script
        assert not [p for p in site.rglob("*") if p.is_file() and b"/home/somebody" in p.read_bytes()]


def test_the_index_shows_layers_beside_their_controls(held):
    html = (held.home / "site/index.html").read_text()
    one = held.one
    assert f"<b>{one.detectors().sum()}</b></td><td><b>{one.unique()}</b>" in html
    for control in one.controls.values():
        assert f"{control.detectors(one.level)} / {control.unique(one.level)}</span>" in html
    bars = re.findall(r"<title>[^<]*: (\d+) detectors of ([^<]*)</title>", html)
    found = {c: sum(labels.values()) for c, labels in one.by_category().items() if labels}
    assert {category: int(n) for n, category in bars} == found
    bars = re.findall(r"<title>[^<]*: (\d+) labels of ([^<]*)</title>", html)
    assert {c: int(n) for n, c in bars} == {c: len(v) for c, v in one.by_category().items() if v}
    page = (held.home / f"site/sites/{SITE}.html").read_text()
    bars = re.findall(r"<title>&lt;(concept \d+)&gt; \(\w+\): (\d+) detectors</title>", page)
    told = {f"<{name}>": int(n) for name, n in bars}
    assert told == {name: n for labels in one.by_category().values() for name, n in labels.items()}


def test_the_layer_table_is_the_methods_own(held):
    (row,), frame = table(held.found.sites), layer_table([held.one])
    for name in ("site", "detectors", "labels"):
        assert row[name] == frame[name][0]
    assert row["mean"] == frame["mean iou"][0] and row["aside"] == (frame["dead"][0], frame["rare"][0])
    for category, pair in row["categories"].items():
        assert pair == (frame[f"{category} labels"][0], frame[f"{category} detectors"][0])
    for name, control in zip(held.one.controls, row["controls"], strict=True):
        assert control[:2] == (frame[f"{name} detectors"][0], frame[f"{name} labels"][0])


def test_of_a_run_that_kept_no_pictures(held, tmp_path):
    found = dissect(held.store, held.concepts, DissectConfig(bootstrap=0, controls=(), top=0))
    shown = dissect_pages(found, held.store, tmp_path / "site", images=picture)
    assert shown.pictures == shown.shown == 0 and not (tmp_path / "site/pictures").exists()
    assert data(tmp_path / "site", "data/0/0")[0]["p"] == []


def test_tables_are_in_the_published_columns(held):
    read = read_published(held.home / f"site/tables/{SITE}.csv")
    assert read.detectors(held.one.level)[0] == int((held.one.best > held.one.level).sum())
    told = json.loads((held.home / f"site/tables/{SITE}.json").read_text())
    frame = published(held.one)
    assert told["columns"] == list(frame) and len(told["data"]) == UNITS
    assert told["data"][3][told["columns"].index("object-truth")] == frame["object-truth"][3]


def test_without_pictures_none_are_written(held):
    blank = held.home / "blank"
    assert not list(blank.rglob("*.webp")) and not held.blank.images
    assert data(blank, "data/site")["sheet"] is None and data(blank, "pictures/0")[0][1:3] == list(SIZE)
    assert "tables" not in {p.name for p in blank.iterdir()} and "no pictures" in str(held.blank)


def test_a_site_replaces_a_site_and_nothing_else(held, tmp_path):
    own = tmp_path / "mine"
    own.mkdir()
    (own / "index.html").write_text("mine")
    with pytest.raises(ArgumentError, match="holds other things"):
        dissect_pages(held.found, held.store, own)
    assert (own / "index.html").read_text() == "mine"
    out = tmp_path / "site"
    for images in (picture, None):
        dissect_pages(held.found, held.store, out, images=images)
    before = {p.relative_to(out): p.read_bytes() for p in out.rglob("*.js")}
    assert not list(out.rglob("*.webp"))
    dissect_pages(held.found, held.store, out)
    assert before == {p.relative_to(out): p.read_bytes() for p in out.rglob("*.js")}


def test_refuses_what_is_not_one_dissection(held, tmp_path):
    with pytest.raises(ArgumentError, match="of one dissection"):
        dissect_pages(SimpleNamespace(sites={}, config={}), held.store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_says_what_it_does(held):
    assert held.told[0] == f"{SITE}: outlines of masks" and f"{held.shown.pictures} pictures" in held.told
