"""The JSON of a machine and the tables made of it."""

import json
from pathlib import Path

import pytest

from mmxai.bench import Figure
from mmxai.bench import document as documents
from mmxai.bench.machine import checkout, machine, slug
from mmxai.bench.table import BEGIN, BEGIN_TARGETS, END, markdown, number, of_folder, terminal, write_between
from mmxai.errors import ArgumentError

ROOT = Path(__file__).parents[2]


def figure(name, value=2.0, target=">= 1"):
    return Figure(name, value, target, "5 ms (4 ms-6 ms)", "1 ms: 20 MB at 20 GB/s (copy)")


def made(**cases):
    document = documents.new()
    for case, figures in cases.items():
        documents.add(document, case, figures, "green")
    return document


def test_figures_can_be_read_by_name():
    document = made(stats=[figure("a", 3.5)])
    assert document["figures"] == {"a": 3.5}
    assert document["details"]["a"]["verdict"] == "met"
    assert document["details"]["a"]["floor"].startswith("1 ms")
    assert document["cases"]["stats"]["tests"] == "green"
    assert document["cases"]["stats"]["backends"]["gather"].startswith(("cpu", "numba", "reference"))
    assert document["machine"]["torch"]


def test_a_case_run_again_replaces_its_figures(tmp_path):
    path = tmp_path / "r" / "machine.json"
    documents.write(path, made(stats=[figure("a"), figure("old")], store=[figure("b", 5.0)]))
    merged = documents.merge(path, made(stats=[figure("a", 9.0)]))
    assert merged["figures"] == {"b": 5.0, "a": 9.0}
    assert set(merged["cases"]) == {"stats", "store"}
    assert set(merged["details"]) == {"a", "b"}


def test_another_machine_is_another_file(tmp_path):
    other = made(stats=[figure("a")])
    other["machine"]["cpu"] = "an abacus"
    documents.write(tmp_path / "m.json", other)
    with pytest.raises(ArgumentError, match="abacus"):
        documents.merge(tmp_path / "m.json", made(stats=[figure("a")]))


def test_two_cases_cannot_have_one_figure(tmp_path):
    with pytest.raises(ArgumentError, match="one of that name"):
        made(stats=[figure("a")], store=[figure("a")])
    documents.write(tmp_path / "m.json", made(stats=[figure("a")]))
    with pytest.raises(ArgumentError, match="two cases"):
        documents.merge(tmp_path / "m.json", made(store=[figure("a")]))


def test_a_file_that_holds_no_figures(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"figures": {}}))
    with pytest.raises(ArgumentError, match="not a file of figures"):
        documents.load(tmp_path / "m.json")


def test_slug_names_the_device():
    assert slug({"gpu": "NVIDIA H100 80GB HBM3", "cpu": "x", "cores": 8}) == "nvidia-h100-80gb-hbm3"
    assert slug({"gpu": None, "cpu": "AMD EPYC", "cores": 2}) == "amd-epyc-2-cores"
    assert slug(machine())


def test_markdown_has_every_figure_and_says_what_was_missed():
    text = markdown([made(stats=[figure("fine"), figure("poor", 0.5)], store=[figure("told", 0.1, None)])])
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert set(rows) == {"fine", "poor", "told"}
    assert "**missed**" in rows["poor"] and "**missed**" not in rows["fine"]
    assert "| reported |" in rows["told"]
    assert all("20 GB/s" in row for row in rows.values())


def test_markdown_of_targets_leaves_out_what_is_only_reported():
    text = markdown(
        [made(stats=[figure("poor", 0.5), figure("told", 1.0, None)], store=[figure("b", 1, None)])],
        targets=True,
    )
    assert "`poor`" in text and "told" not in text and "`store`" not in text


def test_terminal_judges_no_quick_run():
    assert "MISSED" in terminal([figure("poor", 0.5)])
    assert "MISSED" not in terminal([figure("poor", 0.5)], quick=True)


def test_numbers():
    assert [number(v) for v in (0.00265, 3.499, 286.3, 12345.6)] == ["0.00265", "3.5", "286", "12,346"]


@pytest.mark.parametrize("begin", [BEGIN, BEGIN_TARGETS])
def test_write_between_leaves_the_rest(tmp_path, begin):
    documents.write(tmp_path / "results" / "m.json", made(stats=[figure("a"), figure("told", 1.0, None)]))
    table = of_folder(tmp_path / "results", targets=begin == BEGIN_TARGETS)
    assert ("told" in table) == (begin == BEGIN)
    path = tmp_path / "README.md"
    path.write_text(f"before\n{begin}\nold\n{END}\nafter\n")
    for _ in range(2):
        write_between(path, tmp_path / "results")
        assert path.read_text() == f"before\n{begin}\n{table}\n{END}\nafter\n"


@pytest.mark.parametrize(
    "text",
    ["none", f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN_TARGETS}\n{END}", BEGIN],
)
def test_write_between_needs_its_markers(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ArgumentError, match=r"expected (the lines|it after)"):
        write_between(tmp_path / "README.md", tmp_path)
    assert (tmp_path / "README.md").read_text() == text


@pytest.mark.parametrize(("file", "begin"), [("README.md", BEGIN_TARGETS), ("docs/figures.md", BEGIN)])
def test_the_pages_hold_the_kept_figures(file, begin):
    """Whoever changes benchmarks/results runs `python -m benchmarks table --write` on both."""
    assert checkout() == ROOT
    written = (ROOT / file).read_text().split(begin)[1].split(END)[0].strip()
    assert written == of_folder(ROOT / "benchmarks" / "results", targets=begin == BEGIN_TARGETS).strip()
