"""The page of a split: one file, a view a target, and cells that say what they are."""

import re

import numpy as np
import pytest

from mmxai.methods.path import Ablation, Contributions, Term
from mmxai.report.path import path_page
from tests.report.browser import browse, needs_browser

TERMS = [Term("embedding", "embedding")]
for block in range(2):
    TERMS += [Term(f"vision.{block}.z.{h}", "head", block, h) for h in range(3)]
    TERMS.append(Term(f"vision.{block}.mlp_post", "mlp", block))
TERMS.append(Term("ln_final.norm", "norm"))


@pytest.fixture
def page(tmp_path):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(len(TERMS), 2))
    share = rng.normal(size=len(TERMS))
    share /= share.sum()
    sites = ["vision.0.mlp_post", "vision.1.mlp_post"]
    found = Contributions(
        "a & b", "vision", 7, TERMS, ["red <b>", "blue"], mean, np.abs(mean), share,
        {s: rng.normal(size=(30, 2)) for s in sites}, {s: rng.normal(size=30) for s in sites},
        2.5e-7, 7, {"ln_final": 0.049},
    )  # fmt: skip
    lost = Ablation("direct path", 7, 2, 1.0, ["some heads"], [3], np.array([0.5]), np.array([[0.9, 0.8]]))
    return found, path_page(found, tmp_path / "deep" / "index.html", title="T < U", ablations=[lost])


def test_what_it_says(page):
    found, file = page
    text = file.read_text()
    assert "T &lt; U" in text and "a &amp; b" in text and "red &lt;b&gt;" in text and "<b>" not in text
    assert text.count("<option") == 3 and "2.5e-07" in text
    at = [t.name for t in TERMS].index("vision.1.z.2")
    said = f"{found.mean[at, 1]:.3f}".replace("-", "\N{MINUS SIGN}")
    assert f'title="block 1, h2: {said}"' in text
    assert "80.0%" in text and "85.0%" in text and "50.0%" in text and "4.9%" in text
    assert not re.search(r'(src|href)="(?!#)', text)  # nothing from outside
    strongest = [float(v) for v in re.findall(r"--v:([0-9.]+)", text)]
    assert max(strongest) == 1


@needs_browser
def test_a_browser_shows_another_target(page, tmp_path):
    script = "target.value = 2; target.onchange(); return { html: document.body.outerHTML }"
    shown = browse(page[1], script, tmp_path)
    views = re.findall(r"<div( hidden=\"\")?>\s*<h2>([^<]*)", shown["html"])
    assert [(bool(hidden), name.strip()) for hidden, name in views] == [
        (True, "share of the output"), (True, "red &lt;b&gt;"), (False, "blue"),
    ]  # fmt: skip
    assert not shown["errors"]
