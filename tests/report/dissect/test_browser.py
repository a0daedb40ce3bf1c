"""A headless Chromium shows a dissection's site, from its folder and from a plain web server."""

import functools
import http.server
import re
import threading

import numpy as np
import pytest

from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.models.geometry import cell_box
from mmxai.report.dissect import dissect_pages
from mmxai.store import open_store
from tests.methods.dissect.stores import GRID, Maps, make
from tests.report.browser import browse, needs_browser
from tests.report.dissect.planted import picture

PICTURES, UNITS, SITE = 18, 40, "vision.1.mlp_post"

pytestmark = needs_browser

# Pictures come when a frame shows their card: where there are cards they have some.
READY = "all('svg image').length || !get('gallery')"

SHOWN = """
await settled();
const decoded = await Promise.all(all('svg image').map(image => new Promise(done => {
  const made = new Image();
  made.onload = () => done(true);
  made.onerror = () => done(false);
  made.src = image.href.baseVal;
})));
return {
  pictures: decoded.length, broken: decoded.filter(good => !good).length, told: get('told')?.textContent,
  cards: all('#gallery article').length, first: all('#gallery article h3')[0]?.textContent,
  text: document.querySelector('main').innerText, more: get('more')?.hidden,
  said: document.querySelector('p.error')?.textContent ?? '',
  masks: all('.shown svg.masked').map(svg => {
    const [box, own] = [svg, svg.querySelector('.mask')].map(e => e.getBoundingClientRect());
    return [own.left - box.left, own.top - box.top, own.right - box.left, own.bottom - box.top,
      box.width, box.height];
  }),
};"""


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """By mode; see `_made`."""
    made = {mode: _made(tmp_path_factory.mktemp(mode), mode) for mode in ("nearest", "bilinear")}
    yield {mode: one for mode, (one, _) in made.items()}
    for _, server in made.values():
        server.shutdown()
        server.server_close()


@pytest.fixture
def site(sites):
    return sites["nearest"]


def _made(home, mode):
    """Folder, address, what was found, values, sizes and tiles of the samples, (sample, tile) of unit 7's
    exemplars; and the server."""
    values = make(home / "acts.zarr", PICTURES, UNITS)
    with open_store(home / "acts.zarr") as store:
        compose = 3 if mode == "nearest" else 1  # forms are of whole cells
        config = DissectConfig(quantile=0.1, bootstrap=10, top=5, mode=mode, compose=compose)
        found = dissect(store, Maps(PICTURES), config)
        sizes = {i: store.samples[i].size for i in range(PICTURES)}
        tiles = {i: store.samples[i].tiles for i in range(PICTURES)}
        dissect_pages(found, store, home / "site", images=lambda i: picture(i).resize(sizes[i]))
        one = found[SITE]
        who = [store[SITE].rows.gather(np.array([row])) for row in one.top_rows[7]]
        places = [(int(w.sample[0]), int(w.image[0])) for w in who]
    handler = functools.partial(_Quiet, directory=home / "site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    return (home / "site", address, one, values, sizes, tiles, places), server


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def look(folder, base, address, tmp_path, act="", width=500):
    """What stands on a page, and whether its pictures decode; `act`: what is done there first."""
    page, _, place = address.partition("#")
    return browse(
        folder / page, act + SHOWN, tmp_path, ready=READY, window=(width, 3000),
        address=lambda file: f"{base}/{file.relative_to(folder).as_posix()}" + (f"#{place}" if place else ""),
    )  # fmt: skip


@pytest.mark.parametrize("page, served", [("index.html", True), (f"sites/{SITE}.html", False)])
def test_units_are_listed_and_found(site, tmp_path, page, served):
    folder, address, one, *_ = site
    base = address if served else folder.as_uri()
    shown = look(folder, base, page, tmp_path)
    assert not shown["errors"] and not shown["said"] and shown["wide"] <= 500
    detectors = int(one.detectors().sum())
    assert shown["told"] == f"{detectors} of {UNITS}" and shown["cards"] == min(24, detectors)
    assert shown["pictures"] >= 12 and shown["broken"] == 0
    assert shown["more"] == (detectors <= 24)
    act = (
        "const set = (id, value) => { const field = document.getElementById(id); field.value = value;"
        "(field.onchange || field.oninput)(); };"
        "set('state', ''); set('sort', 'unit'); set('find', 'neuron 7');"
    )
    wanted = [u for u in range(UNITS) if "7" in str(u)]
    found = look(folder, base, page, tmp_path, act, 1200)
    shown = found["told"], found["cards"]
    # Words are looked for anywhere in what is said of a unit, so that 7 finds 17 too.
    label = sum("7" in str(one.concepts[k]) for k in one.label if k >= 0)
    assert shown == (f"{len(wanted) + label} of {UNITS}", len(wanted) + label)
    assert found["first"].startswith("neuron 7") and not found["errors"]


@pytest.mark.parametrize("mode, served", [("nearest", True), ("bilinear", False)])
def test_a_units_page_draws_the_mask_where_it_is(sites, tmp_path, mode, served):
    folder, address, one, values, sizes, tiles, places = sites[mode]
    shown = look(folder, address if served else folder.as_uri(), "unit.html#0/7", tmp_path)
    assert not shown["errors"] and not shown["said"] and shown["wide"] <= 500 and shown["broken"] == 0
    assert shown["pictures"] == len(places) == len(shown["masks"])
    text, label = shown["text"], one.concepts[one.label[7]]
    assert "neuron 7" in text and f"{label.name} ({label.category})" in text
    assert f"{one.best[7]:.3f} ({one.low[7, 0]:.3f} to {one.high[7, 0]:.3f})" in text
    for k in one.candidates[7]:
        assert one.concepts[k].name in text
    assert "95% interval" in text and "no licence stated" in text
    assert f"AUPRC\n{one.auprc[7, 0]:.2f}" in text and ("Logical form" in text) == (mode == "nearest")
    if one.forms is not None:
        assert len(one.forms.form(7)) > 1 and one.forms.text(7, one.concepts) in text
        assert f"IoU {one.forms.iou[7]:.3f}, of a single concept {one.forms.single[7]:.3f}" in text
    for (left, top, right, bottom, width, height), (sample, tile) in zip(shown["masks"], places, strict=True):
        above = np.argwhere(values[sample, tile, :, 7].reshape(GRID) > one.threshold[7])
        boxes = np.array([cell_box(tiles[sample][tile], y, x) for y, x in above])
        scale = width / sizes[sample][0]
        assert height / sizes[sample][1] == pytest.approx(scale, rel=0.02)
        expected = scale * np.array([*boxes[:, :2].min(0), *boxes[:, 2:].max(0)])
        # Bilinear masks end between cells: a cell's size is all that they may be off by.
        slack = 1.5 if one.mode == "nearest" else 1.1 * scale * (boxes[:, 2:] - boxes[:, :2]).max()
        assert np.abs(expected - [left, top, right, bottom]).max() <= slack


def test_a_bar_leads_to_the_units_of_its_label(site, tmp_path):
    folder, _, one, *_ = site
    name, units = next((n, k) for labels in one.by_category().values() for n, k in labels.items())
    page = (folder / f"sites/{SITE}.html").read_text()
    address = re.search(rf'href="(#label=[^"]*)"><rect[^>]*><title>{re.escape(name)} ', page)[1]
    shown = look(folder, folder.as_uri(), f"sites/{SITE}.html{address}", tmp_path)
    assert shown["told"] == f"{units} of {UNITS}" and name in shown["first"]


def test_a_dead_unit_has_a_page(site, tmp_path):
    folder, _, one, *_ = site
    assert one.dead[0]
    shown = look(folder, folder.as_uri(), "unit.html#0/0", tmp_path)
    assert "dead: never above its threshold" in shown["text"] and not (shown["errors"] or shown["said"])


def test_addresses_of_no_unit_are_told(site, tmp_path):
    folder = site[0]
    for place in ("", "#0/999", "#x/y"):
        assert "There is no such unit" in look(folder, folder.as_uri(), f"unit.html{place}", tmp_path)["text"]


def test_a_missing_file_is_told(site, tmp_path):
    folder = site[0]
    moved = (folder / "data/0/0.js").rename(tmp_path / "0.js")
    shown = look(folder, folder.as_uri(), "unit.html#0/7", tmp_path)
    moved.rename(folder / "data/0/0.js")
    assert shown["said"] == "data/0/0.js is missing from this site"
