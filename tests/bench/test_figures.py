"""Figures and timing in turns."""

import math

import pytest

from mmxai.bench import Figure, Timing, interleave, ratio, seconds_text
from mmxai.bench.figures import interleave_paths
from mmxai.bench.floors import bytes_floor, copy_bandwidth, multiply_rate, operations_floor


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (2.0, ">= 2", "met"),
        (1.9, ">= 2", "MISSED"),
        (1.15, "<= 1.15", "met"),
        (1.16, "<= 1.15", "MISSED"),
        (math.nan, ">= 2", "MISSED"),
        (math.nan, "<= 2", "MISSED"),
        (0.1, None, "reported"),
    ],
)
def test_verdict(value, target, verdict):
    assert Figure("f", value, target, "measured", "floor").verdict == verdict


def test_no_figure_without_a_floor():
    with pytest.raises(ValueError, match="no floor"):
        Figure("f", 1.0, None, "measured", "")


@pytest.mark.parametrize("target", ["== 2", "> 2", ">= two"])
def test_a_target_that_cannot_be_read(target):
    with pytest.raises(ValueError):
        Figure("f", 1.0, target, "measured", "floor")


def test_turns_alternate_and_warmup_is_not_timed():
    calls = []
    works = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = interleave(works, repeats=3, warmup=2)
    assert "".join(calls) == "ab" * 5
    assert [len(t.seconds) for t in timings.values()] == [3, 3]


def test_every_turn_that_writes_has_a_path_of_its_own(tmp_path):
    seen = []

    def folder(path):
        seen.append(path)
        path.mkdir()
        (path / "x").touch()

    timings = interleave_paths(tmp_path, {"f": folder, "g": lambda p: p.touch(), "n": seen.append}, repeats=2)
    assert len(set(seen)) == 6
    assert not list(tmp_path.iterdir())
    assert len(timings["f"].seconds) == 2


def test_ratio_is_the_median_of_pairs():
    # A machine that turned ten times slower half way through changes no pair.
    assert ratio(Timing([2.0, 2.0, 20.0]), Timing([1.0, 1.0, 10.0])) == 2.0


def test_timing_text_has_the_spread():
    timing = Timing([0.002, 0.001, 1.5])
    assert str(timing) == "2 ms (1 ms-1.50 s)"
    assert timing.per(2).median == 0.001
    assert seconds_text(0.25) == "250 ms"


def test_floors_are_measured():
    assert copy_bandwidth(1 << 20) > 1e8
    assert multiply_rate(64) > 1e6
    assert bytes_floor(1e9, 1e10) == "100 ms: 1e+03 MB at 10 GB/s (copy)"
    assert operations_floor(2e9, 1e9).startswith("2.00 s: 2 G operations")
