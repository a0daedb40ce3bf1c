"""The hook mechanism on plain modules; what it does on real networks is in tests/models."""

from __future__ import annotations

import functools
import gc
import threading
import tracemalloc

import pytest
import torch
from torch import nn

from mmxai.capture.hooks import Point, Request, _compiled, eagerly, run_hooked
from mmxai.errors import CompiledModelError, ModelError, SiteNotFiredError
from mmxai.models import wrap


def point(module, side="out", **kwargs):
    return Point(module, side, lambda x: x, lambda x, new: new, **kwargs)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def test_reads_inputs_and_outputs_and_detaches(net):
    x = torch.randn(2, 4)
    requests = [Request("in", point(net[0], "in"), capture=True), Request("out", point(net[1]), capture=True)]
    out = run_hooked(net, requests, lambda: net(x))
    assert torch.equal(requests[0].value, x) and torch.equal(requests[1].value, net[:2](x))
    assert torch.equal(out, net(x))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_module_that_runs_twice_or_never_is_an_error(net):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.never = net, nn.ReLU()

        def forward(self, x):
            return self.net(x) + self.net(x)

    odd = Odd()
    for module, got in ((net[1], 2), (odd.never, 0)):
        request = Request("site", point(module), capture=True)
        with pytest.raises(SiteNotFiredError, match=f"'site': {got}"):
            run_hooked(odd, [request], lambda: odd(torch.randn(2, 4)))
    request = Request("site", point(net[1], fires=2), capture=True)
    run_hooked(odd, [request], lambda: odd(torch.randn(2, 4)))


def test_stop_ends_the_forward_even_where_the_model_catches_exceptions(net):
    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = net[0], net[2]
            self.reached = False

        def forward(self, x):
            try:
                self.first(x)
            except Exception:
                self.reached = True
            self.reached = True
            return x

    model = Careless()
    assert (
        run_hooked(
            model, [Request("s", point(net[0]), capture=True)], lambda: model(torch.randn(2, 4)), stop=True
        )
        is None
    )
    assert not model.reached


def compiled(net, how):
    if how == "whole":
        return torch.compile(net, backend="eager")
    if how == "part":
        net[1] = torch.compile(net[1], backend="eager")
    elif how == "method":
        net[0].compile(backend="eager")
    else:
        net[0].forward = torch.compile(net[0].forward, backend="eager")
    return net


@pytest.mark.parametrize("how", ["whole", "part", "method", "forward"])
def test_hooks_run_in_what_is_compiled_and_it_stays_compiled(net, how):
    x, first = torch.randn(2, 4), net[0]
    want = net(x)
    module = compiled(net, how)
    torch.testing.assert_close(module(x), want)  # compiled by now
    request = Request("s", point(first), capture=True, edits=[lambda y: y + 1.0])
    out = run_hooked(module, [request], lambda: module(x))
    assert request.value is not None and not torch.equal(out, want)
    torch.testing.assert_close(module(x), want)
    assert _compiled(module) is not None and torch.compiler.is_compiling() is False


def test_threads_share_what_keeps_compiled_code_from_running(net):
    """The stance is torch's, one for the process: whoever ends first leaves it to the other."""
    net[0].compile(backend="eager")
    x, want = torch.randn(2, 4), net(torch.zeros(2, 4))
    started, ended = threading.Event(), threading.Event()

    def other():
        with eagerly(net):
            started.set()
            ended.wait(30)

    thread = threading.Thread(target=other)
    with eagerly(net):
        thread.start()
        assert started.wait(30)
    request = Request("s", point(net[0]), capture=True)
    ended.set()
    with eagerly(net):
        thread.join()
        run_hooked(net, [request], lambda: net(x))
    assert request.fired == 1
    assert torch._dynamo.eval_frame._stance.stance == "default"
    torch.testing.assert_close(net(torch.zeros(2, 4)), want)


def test_hooks_of_others_may_be_any_callable(net):
    net[0].register_forward_hook(functools.partial(lambda *args, by: args[2] * by, by=2.0))
    request, x = Request("out", point(net[0]), capture=True), torch.randn(2, 4)
    run_hooked(net, [request], lambda: net(x))
    torch.testing.assert_close(request.value, 2 * nn.functional.linear(x, net[0].weight, net[0].bias))


def test_a_torch_that_cannot_run_compiled_code_plainly(net, monkeypatch):
    monkeypatch.delattr(torch.compiler, "set_stance")
    net[0].compile(backend="eager")
    with pytest.raises(CompiledModelError, match="compile"):
        run_hooked(net, [], lambda: None)


def test_runs_inside_runs_are_refused_and_threads_take_turns(net):
    model = wrap(net, example=torch.randn(2, 4))
    with pytest.raises(ModelError, match="nested"):
        model.run(torch.randn(2, 4), edit={"module:0": lambda x: model.run(torch.randn(2, 4)).out})
    results, inputs = {}, [torch.randn(3, 4) for _ in range(8)]

    def work(i):
        for _ in range(20):
            results[i] = model.run(inputs[i], capture="module:0").acts["module:0"]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, x in enumerate(inputs):
        assert torch.equal(results[i][:, 0], net[0](x))


def test_a_thousand_runs_leave_nothing_behind(net):
    model = wrap(net, example=torch.randn(2, 4))
    x = torch.randn(8, 4)

    def once():
        model.run(
            x, capture=["module:0", "module:2"], edit={"module:1": lambda y: y * 2}, grad=lambda o: o.sum()
        )
        model.run(x, capture="module:0", stop=True)

    def tensors():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    for _ in range(10):
        once()
    before, _ = tensors(), tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    for _ in range(500):
        once()
    assert tensors() == before
    grown = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    assert grown < 50_000, grown
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
