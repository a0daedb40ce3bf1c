"""`capture` inside compiled models: the registered operator and what waits for nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from mmxai.errors import ArgumentError
from mmxai.kernels.capture import NeuronState, capture
from mmxai.kernels.capture.custom import Recorder, capture_later, capture_operator
from tests.kernels.test_capture import check_moments, exact

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def rows(seed, width=6):
    return torch.randn(2, 40, width, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def recorder(per_sample=False, bottom=False, index=None):
    state = NeuronState(6, 3, bottom=bottom, per_sample=per_sample, device=DEVICE)
    count = 80 if index is None else len(index)
    samples = torch.arange(count, device=DEVICE) // 8 if per_sample else None
    out = torch.full((count, 6), torch.nan, dtype=torch.bfloat16, device=DEVICE)
    return Recorder(out, state, 7, index=index, samples=samples)


@pytest.mark.parametrize("options", [{}, {"per_sample": True, "bottom": True}])
def test_the_operator_is_what_its_fake_says(options):
    r = recorder(**options)
    s = r.state
    arguments = (
        rows(0), r.index, r.samples, r.out, r.overflow, r.cursor, s.tallies, s.moments, s.extremes,
        s.top_values, s.top_rows, s.top_samples, s.bottom_values, s.bottom_rows, s.bottom_samples,
    )  # fmt: skip
    torch.library.opcheck(capture_operator, arguments)


@pytest.mark.parametrize("keep", [False, True])
def test_a_hook_in_a_compiled_model(keep):
    index = torch.arange(0, 80, 3, device=DEVICE) if keep else None
    recorded = recorder(index=index)
    model = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6)).to(DEVICE)
    model[0].register_forward_hook(lambda module, args, out: recorded(out))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    want = NeuronState(6, 3, device=DEVICE)
    mask = None if index is None else torch.zeros(80, dtype=torch.bool, device=DEVICE)
    if mask is not None:
        mask[index] = True
        mask = mask.view(2, 40)
    with torch.no_grad():
        for call in range(3):
            x = rows(call)
            inner = model[0].forward(x)
            assert torch.equal(compiled(x), model[2](model[1](inner)))
            out = torch.empty_like(recorded.out)
            capture(inner, mask, out, want, 7 + call * len(out))
            assert torch.equal(out, recorded.out)
    assert recorded.finish() == 0
    for a, b in zip(exact(recorded.state), exact(want), strict=True):
        np.testing.assert_array_equal(a, b)
    check_moments(recorded.state, want)


@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device")
def test_in_a_graph():
    recorded, x = recorder(), rows(0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        recorded(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded(x)
    want = NeuronState(6, 3, device=DEVICE)
    out = torch.empty_like(recorded.out)
    for call in range(4):
        if call:
            x.copy_(rows(call))
            graph.replay()
        capture(rows(call), None, out, want, 7 + 80 * call)
    assert recorded.finish() == 0
    for a, b in zip(exact(recorded.state), exact(want), strict=True):
        np.testing.assert_array_equal(a, b)
    check_moments(recorded.state, want)


def test_later_is_the_same():
    x = rows(0) * 1e38
    index = torch.arange(0, 80, 3, device=DEVICE)
    outs = torch.empty(2, 27, 6, dtype=torch.float16, device=DEVICE)
    states = [NeuronState(6, 3, device=DEVICE) for _ in outs]
    overflow = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    capture_later(x, index, outs[0], states[0], 4, overflow)
    keep = torch.zeros(80, dtype=torch.bool, device=DEVICE)
    keep[index] = True
    assert capture(x, keep.view(2, 40), outs[1], states[1], 4) == int(overflow) > 0
    assert torch.equal(outs[0], outs[1])
    for a, b in zip(exact(states[0]), exact(states[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_arguments():
    state = NeuronState(6)
    state.next_row = 5
    with pytest.raises(ArgumentError, match="got row 4 after row 4"):
        Recorder(None, state, 4)
    with pytest.raises(ArgumentError, match="got out int8"):
        Recorder(torch.empty(1, 6, dtype=torch.int8), NeuronState(6), 0)
    with pytest.raises(ArgumentError, match="expected the same"):
        capture_later(torch.ones(1, 2, 5), None, None, state, 9, torch.zeros(1, dtype=torch.int64))


def test_rows_in_any_order():
    x = rows(0).transpose(1, 2).contiguous().transpose(1, 2)
    index = torch.tensor([0, 2, 1, *range(3, 32)], device=DEVICE)
    out = torch.empty(32, 6, dtype=torch.float32, device=DEVICE)
    capture_later(
        x, index, out, NeuronState(6, 3, device=DEVICE), 0, torch.zeros(1, dtype=torch.int64, device=DEVICE)
    )
    assert torch.equal(out, x.reshape(80, 6)[index])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.arange(4, dtype=torch.int32), "index is torch.int32"),
        (torch.arange(8)[::2], "expected contiguous"),
        (torch.tensor([0, 80]), "from 0 to 80, x has 80 rows"),
        (torch.tensor([-1, 3]), "from -1 to 3"),
    ],
)
def test_a_bad_index(index, message):
    with pytest.raises(ArgumentError, match=message):
        capture_later(rows(0).cpu(), index, None, NeuronState(6), 0, torch.zeros(1, dtype=torch.int64))


def test_a_recorder_of_another_batch():
    with pytest.raises(ArgumentError, match=r"expected contiguous \(120, 6\)"):
        recorder()(torch.zeros(3, 40, 6, device=DEVICE))
    with pytest.raises(ArgumentError, match=r"expected contiguous \(80, 5\)"):
        recorder()(torch.zeros(2, 40, 5, device=DEVICE))
