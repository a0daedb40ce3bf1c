"""The lens' page: what it holds, and what a browser shows of positions and pictures."""

import numpy as np
import pytest
import torch

from mmxai.methods.lens import LensResult, Transfer
from mmxai.methods.lens.curves import Curve
from mmxai.report.lens import lens_page
from mmxai.types import TOKEN_CODES, Rows
from tests.report.browser import browse, needs_browser

STATES = ["text.0.resid_pre", "text.0.resid_post", "text.1.resid_post", "text.1.z.0", "text.1.z.1"]
NAMES = {0: "<b>", 1: " red", 2: "dog", 3: "\n"}


@pytest.fixture
def page(tmp_path):
    """Two samples: three words; and two words behind a picture of 2 x 2 cells."""
    draws = np.random.default_rng(0)
    image = {"y": [0, 0, 1, 1], "x": [0, 1, 0, 1]}
    types = ["text"] * 3 + ["image"] * 4 + ["text"] * 2
    rows = Rows.make(
        sample=torch.tensor([0] * 3 + [1] * 6), position=torch.tensor([0, 1, 2, 0, 1, 2, 3, 4, 5]),
        token_type=torch.tensor([TOKEN_CODES[t] for t in types]),
        token_id=torch.tensor([0, 1, 2, 9, 9, 9, 9, 1, 3]),
        y=torch.tensor([-1] * 3 + image["y"] + [-1] * 2), x=torch.tensor([-1] * 3 + image["x"] + [-1] * 2),
        image=torch.tensor([-1] * 3 + [0] * 4 + [-1] * 2),
    )  # fmt: skip
    count, n = len(STATES), len(rows)
    ids = torch.from_numpy(draws.integers(0, 4, (count, n, 2)).astype(np.int32))
    chances = torch.from_numpy(np.sort(draws.random((count, n, 2)) / 2)[..., ::-1].astype(np.float32).copy())
    curve = Curve("entropy", "all", n, draws.random(count), np.zeros(count), np.ones(count))
    found = LensResult(
        "a & b", "text", STATES, rows.table, ids, chances.log(), torch.rand(count, n), torch.rand(count, n),
        ids[2, :, 0].clone(), ["<i>it</i>"], torch.full((n, 1), 1), torch.rand(count, n, 1).log(),
        torch.zeros(count, n, 1, dtype=torch.int32), [curve], n, NAMES,
        {0: {"text": "<script>alert(1)</script>"}, 1: {"text": "x", "size": (64, 32),
         "tiles": [{"affine": [1 / 32, 0, 0, 0, 1 / 16, 0], "grid": [2, 2]}]}},
    )  # fmt: skip
    table = draws.random((3, 3))
    between = Transfer("a & b", "text", STATES[:3], n, table, table, {"all": np.array([1, 2, 3, 3])})

    def picture(sample):
        from PIL import Image

        return Image.new("RGB", (64, 32), (200, 30, 30)) if sample == 1 else None

    return found, lens_page(
        found, tmp_path / "deep" / "index.html", title="T < U", between=between, pictures=picture
    )


def test_what_it_says(page):
    text = page[1].read_text()
    assert (
        "T &lt; U" in text and "<script>alert" not in text and "<i>it</i>" not in text and "</b>" not in text
    )
    assert text.count('<div class="panel scroll') == 3 and "data:image/webp" in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")


@needs_browser
def test_a_browser_shows_positions_and_pictures(page, tmp_path):
    found, file = page
    script = """
      const cells = () => all("#table tbody td").map(cell => cell.textContent);
      const first = { cells: cells(), head: all("#table thead th").map(cell => cell.textContent),
                      maps: !get("pictures").hidden, place: get("place").textContent };
      get("kind").value = "heads of block 1"; get("kind").onchange();
      const heads = all("#table tbody th").map(cell => cell.textContent);
      get("kind").value = "stream"; get("sample").value = 1; get("sample").onchange();
      const boxes = all(".map rect");
      boxes[3].onpointerenter();
      const cell = [get("place").textContent, ...all("#top .name").map(name => name.textContent)];
      get("depth").value = 0; get("depth").oninput();
      return { first, heads, boxes: boxes.length, cell, where: get("where").textContent,
               facts: get("facts").textContent,
               transform: document.querySelector(".map g").getAttribute("transform"), shown: cells().length };
    """
    shown = browse(file, script, tmp_path, window=(1200, 900))
    assert not shown["errors"] and not shown["broken"] and shown["wide"] <= 1200
    named = {0: "<b>", 1: "·red", 2: "dog", 3: "⏎"}
    # The last block on top, and only the points of the stream.
    expected = [named[int(i)] for s in (2, 1, 0) for i in found.ids[s, :3, 0]]
    assert shown["first"]["cells"] == expected
    assert shown["first"]["head"] == ["reads", "<b>", "·red", "dog"] and not shown["first"]["maps"]
    assert shown["first"]["place"] == "1.resid_post" + "position 2: dog"
    assert shown["heads"] == ["1.z.1", "1.z.0"]
    assert shown["boxes"] == 4 and shown["transform"] == "matrix(32 0 0 16 0 0)" and shown["shown"] == 6
    assert shown["cell"] == ["1.resid_postcell 1, 1", *(named[int(i)] for i in found.ids[2, 6])]
    assert shown["where"] == "0.resid_pre" and "·red" in shown["facts"]


@needs_browser
def test_a_narrow_screen(page, tmp_path):
    shown = browse(page[1], "return {}", tmp_path, window=(500, 800))
    assert shown["wide"] <= 500 and not shown["errors"]
