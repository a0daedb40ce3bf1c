"""Plots are to scale, and well-formed whatever they are given."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from mmxai.errors import ArgumentError, DataError
from mmxai.report import plots
from mmxai.report.dissect.histograms import by_layer
from mmxai.report.html import number
from mmxai.report.sae import read_metrics, training_plots


def test_a_curve_beside_0_shows_how_small_its_changes_are():
    line = {"a": ([0.0, 1.0, 2.0], [0.287, 0.286, 0.285])}

    def drop(svg):
        ends = [
            float(at)
            for at in re.findall(r",([\d.]+)", ElementTree.fromstring(svg).findall("path")[-1].get("d"))
        ]
        return max(ends) - min(ends)

    assert drop(plots.curves(line)) > 100 and drop(plots.curves(line, zero=True)) < 2


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


def test_a_front_stands_alone(tmp_path):
    series = {"<topk>": ([64, 16, 32], [0.1, 0.4, 0.2]), "relu": ([16], [0.5])}
    text = plots.standalone(plots.front(series, x="L0", y="FVU"))
    svg = ElementTree.fromstring(text)
    assert "https://" not in text and "var(--c1)" in text and "prefers-color-scheme" in text
    (line,) = [
        p.get("d") for p in svg.iter("{http://www.w3.org/2000/svg}path") if p.get("class") == "line c0"
    ]
    x, y = np.array([[float(v) for v in point.split(",")] for point in line[1:].split("L")]).T
    assert np.isclose(x[1] - x[0], x[2] - x[1], atol=0.2)  # L0 doubles twice
    assert np.isclose((y[1] - y[0]) / (y[2] - y[1]), 2, atol=0.02)
    for wrong in ({}, {"a": ([0], [0.5])}, {"a": ([1], [float("nan")])}):
        with pytest.raises(ArgumentError, match="finite and above 0"):
            plots.front(wrong, x="L0", y="FVU")


def test_detectors_by_layer_stand_alone():
    counts, colours = [{"<shape>": 30, "colour": 10}, {"<shape>": 20}], {"<shape>": 0, "colour": 1}
    svg = by_layer(["0", "1"], counts, {"rotated": [15, None]}, colours, "detectors", keys=True)
    text = plots.standalone(svg, styles=["_dissect_plot.css"])
    root = ElementTree.fromstring(text)
    rects = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    keys, bars = [r for r in rects if r.get("y") == "4"], [r for r in rects if r.get("y") != "4"]
    assert len(keys) == 2 and ".part" in text and ".control" in text
    heights = [float(r.get("height")) for r in bars]
    assert np.allclose(np.array(heights) / heights[0], [1, 1 / 3, 2 / 3], atol=0.01)
    assert all(float(r.get("y")) > 22 for r in bars)
    said = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert said[:3] == ["<shape>", "colour", "rotated"]


def test_figures_are_written_as_people_write_them():
    shown = [0, 0.12345, -2, 999.4, 999.6, 1234, -123456, 2e6, 2e-5]
    assert [number(v) for v in shown] == [
        "0", "0.123", "−2", "999", "1,000", "1,230", "−123,000", "2e+06", "2e−05",
    ]  # fmt: skip


def test_metrics_survive_a_killed_run(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_text(
        '{"step": 1, "rows": 9, "lr": 0.1, "fvu": 0.5, "note": "x"}\n{"step": 2, "fvu": 0.25}\n{"step"'
    )
    assert read_metrics(file) == {"fvu": ([1, 2], [0.5, 0.25]), "lr": ([1], [0.1])}
    assert [p["name"] for p in training_plots({"a": read_metrics(file)})] == ["fvu"]
    (plot,) = training_plots({"other": {"lr": ([1], [1.0])}, "a": {"fvu": ([1, 2], [0.5, 0.25])}})
    assert "line c1" in plot["svg"] and plot["last"] == {"a": 0.25}  # of the second colour, as its name is
    for damaged in ('{"step"\n{"step": 1}', '{"fvu": 1}', "[1]"):
        file.write_text(damaged)
        with pytest.raises(DataError, match="line 1"):
            read_metrics(file)
