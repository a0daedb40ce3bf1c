"""Pages of words: what they show is what was found, links lead somewhere, a browser finds words."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from mmxai.errors import ArgumentError
from mmxai.methods.describe import DescribeConfig, Judged, describe
from mmxai.report.describe import describe_pages
from mmxai.store import create_store, open_store
from mmxai.types import Rows
from tests.methods.describe.stores import CONSTANT, SITE, judge, pictures_of
from tests.report.browser import browse, needs_browser

LATENTS, HELD = "module:features.3", 0.3


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    known = judge(200)
    words = ("<b>word</b>", *known.words[1:])
    judged = Judged(known.samples, known.images, words, known.texts, "<judge>")
    x = pictures_of(judged)
    path = tmp_path_factory.mktemp("stores") / "acts.zarr"
    samples = [{"key": f"<key {i}>", "text": "<i>caption</i>", "size": [8, 6]} for i in range(200)]
    rows = Rows.make(sample=torch.arange(200), position=0)
    sites = {SITE: x.shape[1], LATENTS: 4}
    with create_store(path, sites, durable=False) as writer:
        writer.write(samples, {SITE: x, LATENTS: x[:, :4].contiguous()}, rows)
    config = DescribeConfig(sites=(SITE, LATENTS), top=20, null=40, draws=2, held_out=HELD)
    with open_store(path) as store:
        yield store, describe(store, judged, config)


def picture(index):
    return Image.new("RGB", (8, 6), (index, 0, 0))


def cards(html):
    """Unit -> its card."""
    return {int(c.split('"')[0]): c for c in re.split(r'<article id="u', html)[1:]}


def test_cards_say_what_was_found(held, tmp_path):
    store, found = held
    made = describe_pages(found, store, tmp_path, images=picture)
    assert made.units == found.sites[SITE].units + 4 and str(made.index) in str(made)
    assert made.nbytes == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    one, html = found.sites[SITE], (tmp_path / f"layers/{SITE}.html").read_text()
    shown = cards(html)
    assert sorted(shown) == list(range(one.units))
    _, beaten = one.beaten()
    for unit, card in shown.items():
        files = [int(k) for k in re.findall(r'src="\.\./pictures/(\d+)\.webp"', card)]
        assert files == one.top_samples[unit, : len(files)].tolist() and len(files) == 6
        told = re.findall(r"<tr><td>(word \d+|&lt;b&gt;word&lt;/b&gt;)</td>", card)
        words = [one.words[k].replace("<", "&lt;").replace(">", "&gt;") for k in one.index[unit] if k >= 0]
        assert told == words
        if told:
            assert (f"<em>{told[0]}</em>" in card) == bool(one.named()[unit]) == bool(beaten[unit] <= 0.05)
    assert "no word" in shown[CONSTANT] and "<em>word 3</em>" in shown[3]
    assert list(shown)[-1] == CONSTANT and "module_features.3.html" in (tmp_path / "index.html").read_text()
    assert "<b>word" not in html and "<i>caption" not in html and "<key" not in html


def test_every_link_leads_somewhere(held, tmp_path):
    store, found = held
    describe_pages(found, store, tmp_path, images=picture)
    for page in tmp_path.rglob("*.html"):
        links = re.findall(r'(?:href|src)="([^"#]+)"', page.read_text())
        assert links and all((page.parent / link).is_file() for link in links)


def test_few_units_no_pictures_nothing_left(held, tmp_path):
    store, found = held
    describe_pages(found, store, tmp_path)
    (tmp_path / "layers/other.html").write_text("another run's")
    made = describe_pages(found, store, tmp_path, most=3)
    assert made.units == 6 and not (tmp_path / "pictures").exists()
    assert not (tmp_path / "layers/other.html").exists()
    one, html = found.sites[SITE], (tmp_path / f"layers/{SITE}.html").read_text()
    best = np.argsort(-np.nan_to_num(one.correlation[:, 0], nan=-2))[:3]
    assert list(cards(html)) == best.tolist() and "the 3 of 24 whose words correlate best" in html
    with pytest.raises(ArgumentError, match="most=0"):
        describe_pages(found, store, tmp_path, most=0)


def test_without_null_draws_and_pictures_held_out(held, tmp_path):
    store, _ = held
    config = DescribeConfig(sites=(SITE,), top=20, null=0, draws=0, held_out=0)
    found = describe(store, judge(200), config)
    describe_pages(found, store, tmp_path, images=picture)
    html = (tmp_path / f"layers/{SITE}.html").read_text()
    assert "by chance" not in html and "labels missing" not in html and "that words were chosen on" in html
    assert "<em>" not in html  # nothing says what is beyond chance
    assert "nan" not in re.sub(r'title="[^"]*"', "", html).lower()


@needs_browser
def test_words_are_found(held, tmp_path):
    store, found = held
    describe_pages(found, store, tmp_path, images=picture)
    one, page = found.sites[SITE], tmp_path / f"layers/{SITE}.html"
    script = (
        "find.value = 'WORD 3'; find.oninput(); sort.value = 'unit'; sort.onchange();"
        "return { html: get('gallery').outerHTML, told: get('told').textContent }"
    )
    shown = browse(page, script, tmp_path)
    own = [u for u, card in cards(shown["html"]).items() if " hidden" not in card.split(">")[0]]
    searched = {u: f"{u} {' '.join(one.words[k] for k in one.index[u] if k >= 0)}" for u in range(24)}
    has = [u for u, text in searched.items() if "word" in text and "3" in text]
    assert own == has and 3 in own and 0 not in own and shown["told"] == f"{len(has)} of 24"
