"""Case `trace`: that a quick run does the same work on all sides, and that unequal values are an error."""

import pytest

from mmxai.bench import Options
from mmxai.bench.cases import trace
from mmxai.bench.figures import UnequalWorkError


def test_a_quick_run():
    figures = {f.name: f for f in trace.run(Options(quick=True))}
    assert set(figures) == {"sweep_vs_cellwise", "sweep_cells_per_second", "sweep_values_apart"}
    assert figures["sweep_values_apart"].value <= 1e-5
    assert figures["sweep_vs_cellwise"].target == ">= 2.7"


def test_the_operations_that_are_saved():
    """Rows behind the position, blocks from the layer on: some 3.7 times fewer at GPT-2's shape."""
    work = trace.FULL
    rows = sum(work.positions - p for p in range(1, work.positions))
    ours = work.operations(rows * sum(range(1, 13)), 15 * 12)
    whole = work.operations(work.cells * 16 * 12, work.cells)
    assert 3.5 < whole / ours < 4


def test_other_values_are_an_error(monkeypatch):
    run = trace.Study.run

    def wrong(self, method="quick", progress=None):
        result = run(self, method, progress)
        if method == "cellwise":
            result.value = result.value + 1
        return result

    monkeypatch.setattr(trace.Study, "run", wrong)
    with pytest.raises(UnequalWorkError, match="apart"):
        trace.run(Options(quick=True))
