"""The page of probes: it says what the report says, and a browser shows it."""

import re

import numpy as np
import pytest
from markupsafe import escape

from mmxai.labels import read_labels
from mmxai.methods.probe import ProbeConfig, probe
from mmxai.report.probe import probe_page
from mmxai.report.tables import confusion_heat, cosine_heat
from mmxai.store import open_store
from tests.methods.probe.stores import make, write_labels
from tests.report.browser import browse, needs_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page, and the report it is of."""
    home = tmp_path_factory.mktemp("page")
    with open_store(make(home / "<acts>.zarr", 300, noise=1.5)) as store:
        path = write_labels(home / "l.csv", 300)
        labels = read_labels(path, store, regression=["number"], multilabel=["labels"])
        report = probe(store, labels, ProbeConfig(bootstrap=50))
    return probe_page(report, home / "out" / "index.html"), report


def test_it_says_what_the_report_says(page):
    path, report = page
    html = path.read_text(encoding="utf-8")
    assert "&lt;acts&gt;.zarr" in html and "<acts>" not in html
    for score in report.scores:
        e = score.figures[score.main]
        said = f"{score.site}, {score.task}: {score.main} {e.value:.4g} [{e.low:.4g}, {e.high:.4g}]"
        assert f'title="{said}"' in html
    assert html.count('class="heat"') == len(re.findall("<option ", html)) >= 8
    assert "Over blocks" in html and "Calibration" in html and "http" not in html.replace("http-equiv", "")
    for note in report.notes:
        assert str(escape(note)) in html


def test_heats():
    heat = confusion_heat(np.array([[3, 1], [0, 0]]), ["a", "b"])
    assert [c.text for c in heat.rows[0][1]] == ["75", "25"] and heat.rows[1][1][0].level == 0
    assert heat.rows[0][1][1].said == "a, told as b: 1 of 4"
    cells = cosine_heat(np.array([[1.0, -0.251], [np.nan, 0.004]]), ["a", "b"]).rows
    assert [c.text for c in cells[0][1]] == ["1.00", "\N{MINUS SIGN}.25"] and cells[1][1][0].level is None


@needs_browser
def test_a_browser_shows_it(page, tmp_path):
    """No script fails, nothing overflows a narrow screen, the figure can be changed."""
    script = (
        "const shown = () => [...get('maps').children].findIndex(m => !m.hidden), before = shown();"
        "figure.value = 2; figure.onchange(); return { before, after: shown() };"
    )
    shown = browse(page[0], script, tmp_path)
    assert (shown["before"], shown["after"]) == (0, 2)
    assert shown["wide"] <= 500 and not shown["errors"]
