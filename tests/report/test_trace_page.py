"""The page of a study: values with their signs, tokens as they are, pictures under their squares."""

import re

import numpy as np
import pytest
from PIL import Image

from mmxai.methods.trace.findings import Findings, Map, Side
from mmxai.report.trace import trace_page
from tests.report.browser import browse, needs_browser

TILE = {"affine": [1 / 16, 0, 0, 0, 1 / 16, 0], "grid": [2, 3]}


def a_map(title, shows, columns, seed, **more):
    drawn = np.random.default_rng(seed).normal(size=(3, len(columns))) / 2
    given = dict(low=drawn - 0.1, high=drawn + 0.1, estimated=np.zeros(drawn.shape, bool)) | more
    return Map(title, "What <it> is.", shows, "resid_post", 1, "text", columns, drawn, **given)


@pytest.fixture
def page(tmp_path):
    blank = np.full((3, 6), np.nan)
    maps = [
        a_map("tokens & words", "tokens", ["<s>", " the", "\n", "</script>"], 0),
        a_map(
            "patches", "patches", [f"{y}, {x}" for y in range(2) for x in range(3)], 1, low=blank, high=blank,
            places=[(0, y, x) for y in range(2) for x in range(3)],
        ),
        a_map("groups", "groups", ["object", "random 1", "random 2"], 2, random=[1, 2], control_of="object"),
        a_map("blocked", "knockouts", ["a to b"], 3),
    ]  # fmt: skip
    maps[0].estimated[0, 1] = True
    sides = [Side(v, v - 1, v + 1, [(" red", 0.75), ("\n", 0.1)]) for v in (2.5, -4.25)]
    found = Findings(
        "a <model>", "what? \N{RIGHTWARDS ARROW} 'red'", "logit difference", "the region blurred", *sides, 4,
        maps, [TILE], (48, 32), {"subject": "<b>"}, ["Mind <this>."], 12, 3.5,
    )  # fmt: skip
    picture, where = Image.new("RGB", (48, 32), "navy"), np.zeros((32, 48), bool)
    where[4:20, 8:30] = True
    made = trace_page(
        found, tmp_path / "deep" / "index.html", picture=picture, corrupted=Image.new("RGB", (48, 32), "red"),
        where=where,
    )  # fmt: skip
    return found, made


def test_what_it_says(page):
    found, file = page
    text = file.read_text()
    assert "a &lt;model&gt;" in text and "Mind &lt;this&gt;." in text and "What &lt;it&gt; is." in text
    assert "</script>" not in re.sub(r"(?s)<script>.*?</script>", "", text).replace("&lt;/script&gt;", "")
    for limit in ("Hase et al. 2023", "Zhang and Nanda 2024"):
        assert limit in text
    m = found.maps[0]
    for block, column in ((0, 1), (2, 0)):
        shown = f"{m.value[block, column]:.2f}".replace("-", "\N{MINUS SIGN}")
        assert f">{'~' if m.estimated[block, column] else ''}{shown}</td>" in text
    assert "(estimated, not run)" in text and "95% interval" in text and "\N{RETURN SYMBOL}" in text
    assert text.index(">block 2<") < text.index(">block 0<")  # the last block on top
    assert text.count("<rect ") == 3 * 6 and "matrix(16 0 0 16 0 0)" in text
    assert 'd="M8,4h22v16h-22z"' in text and "random as object" in text
    assert not re.search(r'(src|href)="(?!#|data:)', text)  # nothing from outside


def test_a_prompt_has_no_picture(page, tmp_path):
    found, _ = page
    alone = Findings(**{**vars(found), "maps": found.maps[:1], "tiles": [], "size": None, "samples": 1})
    text = trace_page(alone, tmp_path / "text.html").read_text()
    assert "<img" not in text and "With one corrupted run there is no interval" in text
    assert "blocked attention" not in text and "are the control" not in text


@needs_browser
@pytest.mark.parametrize("width", [500, 1250])
def test_a_browser_shows_it(page, tmp_path, width):
    script = """
    const boxes = all('.strip .pic').map(p => [p.querySelector('img'), p.querySelector('g')]
      .map(e => e.getBoundingClientRect()));
    return { strips: boxes.length,
      off: Math.max(...boxes.map(([a, b]) => Math.max(Math.abs(a.x - b.x), Math.abs(a.width - b.width),
        Math.abs(a.height - b.height)))),
      titles: all('td[title]').length, lines: all('path.line').length };
    """
    shown = browse(page[1], script, tmp_path, window=(width, 900))
    assert not shown["errors"] and shown["broken"] == 0 and shown["wide"] <= width
    assert shown["pictures"] == 2 + 3 and shown["strips"] == 3
    assert shown["off"] < 2  # squares lie on the picture that they are of
    assert shown["titles"] == 3 * (4 + 2 + 1) and shown["lines"] == 3
