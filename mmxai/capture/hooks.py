"""The one hook mechanism: reads, edits and differentiates tensors while a module runs.

A `Point` says where a tensor passes; a `Request` says what to do with it. `run_hooked` attaches the
requests, runs the forward and always detaches, whatever happens in between. Every method of mmxai that
intervenes in a model (capture, splicing, ablation, patching, gradients) goes through here.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from mmxai.capture.folded import unfolded
from mmxai.errors import ArgumentError, CompiledModelError, ModelError, SiteNotFiredError

Edit = Callable[[torch.Tensor], torch.Tensor]
Reader = Callable[[torch.Tensor], None]


@dataclass(frozen=True, eq=False)
class Point:
    """Where a site is: a tensor going into or coming out of a module, or a part of that tensor.

    read: tensor of the module -> the site's native tensor `[B, T, D]`; a view where possible.
    write: (tensor of the module, native tensor) -> the tensor the module shall use instead.
    side: "in" (first argument), "out" (result, or first element of a tuple) or "switch" (neither: the
        module does not show the tensor, and `switch` arranges for it to be shown while a run lasts).
    in_place: the same tensor object is used elsewhere too (a residual stream seen as the input of a
        norm), so a replacement must be written into it to reach every user.
    keep: later code may overwrite the tensor (in-place activations): copy what is kept.
    fires: how often the module runs in one forward.
    folded_in: the block around a module that sees `[B * T, D]`; `read` and `write` get `[B, T, D]`.
    """

    module: nn.Module
    side: Literal["in", "out", "switch"]
    read: Callable[[torch.Tensor], torch.Tensor]
    write: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    in_place: bool = False
    keep: bool = False
    fires: int = 1
    switch: Callable[[nn.Module, Callable[[torch.Tensor], torch.Tensor]], Any] | None = None
    folded_in: nn.Module | None = None


@dataclass(eq=False)
class Request:
    """What to do at a point. Edits come first, in order; reads and gradients see the edited value."""

    site: str
    point: Point
    capture: bool = False
    readers: Sequence[Reader] = ()
    edits: Sequence[Edit] = ()
    grad: bool = False
    value: torch.Tensor | None = field(default=None, init=False)
    fired: int = field(default=0, init=False)

    def through(self, tensor: torch.Tensor) -> torch.Tensor:
        """Let the module's `tensor` pass: returns what the module (or its caller) shall use instead."""
        self.fired += 1
        point = self.point
        x = point.read(tensor)
        replaced = bool(self.edits) or self.grad
        if replaced and (point.in_place or point.keep):
            x = x.clone()
        for edit in self.edits:
            x = self._edited(edit, x)
        if self.grad and not x.requires_grad:
            # Nothing upstream is differentiable, so starting the graph here loses no gradient.
            x = x.detach().requires_grad_()
        for reader in self.readers:
            reader(x)
        if self.capture or self.grad:
            self.value = x.clone() if point.keep and not replaced else x
        if not replaced:
            return tensor
        if point.in_place:
            return tensor.copy_(point.write(tensor, x))
        # A later in-place operation on the tensor we hand on must not rewrite the one we keep.
        return point.write(tensor, x.clone() if point.keep else x)

    def _edited(self, edit: Edit, x: torch.Tensor) -> torch.Tensor:
        y = edit(x)
        if not isinstance(y, torch.Tensor) or y.shape != x.shape:
            got = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
            raise ArgumentError(
                f"edit of {self.site}: got {got}, expected a tensor of shape {tuple(x.shape)}"
            )
        return y.to(device=x.device, dtype=x.dtype)


class _Stop(BaseException):
    """Ends a forward after the last requested site. Not an `Exception`: model code must not catch it."""


def run_hooked(
    module: nn.Module, requests: Sequence[Request], forward: Callable[[], Any], *, stop: bool = False
) -> Any:
    """Run `forward()` with the requests attached; its result, or None when it was stopped early.

    Raises CompiledModelError, SiteNotFiredError, and whatever forward, edits or readers raise.
    """
    waiting = {id(r) for r in requests}

    def passing(request: Request) -> Callable[[torch.Tensor], torch.Tensor]:
        def through(tensor: torch.Tensor) -> torch.Tensor:
            tensor = request.through(tensor)
            if stop and request.fired == request.point.fires:
                waiting.discard(id(request))
                if not waiting:
                    raise _Stop
            return tensor

        return through

    out = None
    with (
        exclusive(module),
        eagerly(module),
        attached([(r.point, passing(r)) for r in requests]),
        suppress(_Stop),
    ):
        out = forward()
    wrong = {r.site: r.fired for r in requests if r.fired != r.point.fires}
    if wrong:
        expected = {r.site: r.point.fires for r in requests if r.site in wrong}
        raise SiteNotFiredError(
            f"sites ran a different number of times than declared: got {wrong}, expected {expected}. Either "
            f"these inputs do not reach them, or the model chunks, repeats or replaces these modules "
            f"(chunk_size_feed_forward, layer dropout, fused kernels): switch that off and try again"
        )
    return out


@contextmanager
def attached(points: Sequence[tuple[Point, Callable[[torch.Tensor], torch.Tensor]]]) -> Iterator[None]:
    """Attach a function to each point; always detaches."""
    undo: list[Callable[[], None]] = []
    try:
        for point, through in points:
            if point.folded_in is not None:
                through, remove = unfolded(point.folded_in, through)
                undo.append(remove)
            if point.side == "in":
                undo.append(point.module.register_forward_pre_hook(_before(through), with_kwargs=True).remove)
            elif point.side == "out":
                undo.append(point.module.register_forward_hook(_after(through)).remove)
                _before_recorders(point.module)
            else:
                undo.append(point.switch(point.module, through))  # type: ignore[misc]
        yield
    finally:
        for remove in reversed(undo):
            remove()


def _before_recorders(module: nn.Module) -> None:
    """Let transformers' own hooks see what ours made: they record the hidden states that a multimodal LLM
    reads its pictures from, and stay on a module once they are there.
    """
    for key, hook in list(module._forward_hooks.items()):
        if getattr(hook, "__name__", "") == "output_capturing_hook":  # a partial, or an object, has no name
            module._forward_hooks[key] = module._forward_hooks.pop(key)


def _before(through: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        x = args[0] if args else kwargs["hidden_states"]
        y = through(x)
        if y is x:
            return None
        return ((y, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": y})

    return hook


def _after(through: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        if isinstance(output, tuple):
            y = through(output[0])
            return None if y is output[0] else (y, *output[1:])
        y = through(output)
        return None if y is output else y

    return hook


def original(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` was given, of what it made; any other as it is."""
    while (inner := module._modules.get("_orig_mod")) is not None:
        module = inner
    return module


@contextmanager
def eagerly(module: nn.Module) -> Iterator[None]:
    """Whatever of `module` is compiled runs as plain Python meanwhile, for hooks added after compilation
    never run in compiled code; what was compiled stays so. CompiledModelError of a torch that cannot do that.
    """
    name = _compiled(module)
    if name is None:
        yield
        return
    stance = getattr(torch.compiler, "set_stance", None)
    if stance is None:
        raise CompiledModelError(
            f"{type(module).__name__}: {name or 'the model'} is compiled, and hooks added after "
            f"compilation never run; got torch {torch.__version__}, expected 2.6 or newer, which can run it "
            "as it was: pass the original (model._orig_mod), or load it again without torch.compile"
        )
    with _FORCING.shared(stance):
        yield


class _Forced:
    """torch's stance is one for all threads: the first to need it sets it, the last one sets it back."""

    def __init__(self) -> None:
        self._guard, self._users = threading.Lock(), 0
        self._stance: Any = None

    @contextmanager
    def shared(self, stance: Callable[[str], Any]) -> Iterator[None]:
        with self._guard:
            if not self._users:
                self._stance = stance("force_eager")
                self._stance.__enter__()
            self._users += 1
        try:
            yield
        finally:
            with self._guard:
                self._users -= 1
                if not self._users:
                    self._stance.__exit__(None, None, None)


_FORCING = _Forced()


def _compiled(module: nn.Module) -> str | None:
    """The name of a submodule that is compiled; None where none is."""
    # By hand and not by named_modules, for this runs before every forward.
    stack, seen = [module], {id(module)}
    while stack:
        child = stack.pop()
        own = child.__dict__
        forward = own.get("forward") or type(child).forward
        if (
            "_orig_mod" in own["_modules"]
            or child._compiled_call_impl is not None
            or hasattr(forward, "_torchdynamo_orig_callable")
        ):
            return next(n for n, m in module.named_modules() if m is child)
        for inner in own["_modules"].values():
            if inner is not None and id(inner) not in seen:
                seen.add(id(inner))
                stack.append(inner)
    return None


_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()
_RUNNING = threading.local()


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """Other threads' hooked runs of `module` wait meanwhile; this thread's go on."""
    if any(m is module for m in _running()):
        raise ModelError(
            f"{type(module).__name__}: a run was started from inside an edit or reader of a run of the same "
            f"model; got nested runs, expected one at a time: compute what the edit needs beforehand"
        )
    with _LOCKS_GUARD:
        lock = _LOCKS.setdefault(module, threading.RLock())
    with lock:
        yield


@contextmanager
def exclusive(module: nn.Module) -> Iterator[None]:
    """One hooked run at a time per module: other threads wait, a run inside a run is refused."""
    with held(module):
        _running().append(module)
        try:
            yield
        finally:
            _running().pop()


def _running() -> list[nn.Module]:
    """The modules whose hooked runs are under way in this thread."""
    running: list[nn.Module] = _RUNNING.__dict__.setdefault("modules", [])
    return running


def gradients(value: torch.Tensor, requests: Sequence[Request]) -> Mapping[str, torch.Tensor]:
    """d value / d site for every request with `grad`; zeros where the value does not depend on the site."""
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ArgumentError(f"grad: the metric returned {got}, expected a tensor with one element")
    if not value.requires_grad:
        raise ArgumentError(
            "grad: the metric does not depend on any captured site through autograd; "
            "do not detach, and capture a site upstream of what the metric reads"
        )
    wanted = [r for r in requests if r.grad]
    values = [r.value for r in wanted if r.value is not None]  # all of them: every request has fired
    grads = torch.autograd.grad(value.sum(), values, allow_unused=True)
    return {
        r.site: torch.zeros_like(x) if g is None else g for r, x, g in zip(wanted, values, grads, strict=True)
    }
