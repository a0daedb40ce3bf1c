"""Pages of dictionaries: the comparison with its figure and notes, and a page a kind."""

import re
from dataclasses import replace

import pytest

import mmxai
from mmxai.errors import ArgumentError
from mmxai.methods.decompose import decompose, encode_store
from mmxai.report import plots
from mmxai.report.decompose import dictionary_pages
from tests.methods.decompose.stores import SITE, make_store

KINDS = ("pca", "kmeans", "spherical")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("pages")
    store, _, _ = make_store(home / "acts.zarr", samples=60)
    with store:
        report = decompose(store, SITE, KINDS, units=4, tokens="patch", seeds=0)
        codes = encode_store(list(report.dictionaries.values()), store, home / "codes.zarr")
    with mmxai.open_store(codes) as opened:
        yield report, opened


def test_every_kind_says_what_its_examples_are(made, tmp_path):
    report, codes = made
    written = dictionary_pages(report, codes, tmp_path, top=3)
    assert written.pages == 3 and written.index == tmp_path / "index.html"
    pages = {kind: (tmp_path / f"{kind}.html").read_text() for kind in KINDS}
    assert ["not the nearest to the centroid" in pages[k] for k in KINDS] == [False, True, False]
    assert [len(re.findall("<article ", pages[k])) for k in KINDS] == [4, 4, 4]
    assert ["PCA has no seed" in pages[k] for k in KINDS] == [False] * 3  # none was asked for
    line = replace(report.comparison.lines["pca"], note="a note of this kind")
    noted = replace(
        report, comparison=replace(report.comparison, lines=report.comparison.lines | {"pca": line})
    )
    index = dictionary_pages(noted, codes, tmp_path, units=2).index
    assert "pca: a note of this kind" in index.read_text()
    assert '<p class="soft">a note of this kind</p>' in (tmp_path / "pca.html").read_text()
    assert len(re.findall("<article ", (tmp_path / "pca.html").read_text())) == 2
    for wrong in ({"units": 0}, {"top": 0}):
        with pytest.raises(ArgumentError, match="at least 1"):
            dictionary_pages(report, codes, tmp_path, **wrong)


def test_the_figure_leaves_out_what_is_worse_than_the_mean_row(made, tmp_path, monkeypatch):
    report, codes = made
    drawn = {}
    monkeypatch.setattr(plots, "front", lambda series, **_: drawn.update(series) or "")
    lines = {
        "pca": replace(report.comparison.lines["pca"], l0=4.0, fvu=0.2, kept={1: 0.9, 2: 0.5}),
        "kmeans": replace(report.comparison.lines["kmeans"], l0=3.5, fvu=0.1, kept={1: 40.0, 2: 0.7, 4: 0.1}),
        "spherical": replace(report.comparison.lines["spherical"], l0=0.0, fvu=1.0, kept={}),
    }
    dictionary_pages(replace(report, comparison=replace(report.comparison, lines=lines)), codes, tmp_path)
    assert drawn == {"pca": ([1, 2, 4.0], [0.9, 0.5, 0.2]), "kmeans": ([2, 3.5], [0.7, 0.1])}
