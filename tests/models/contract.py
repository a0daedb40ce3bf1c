"""AdapterTests: what every adapter must satisfy. A family subclasses it with a tiny random model.

The reference computes every site from the weights alone, in plain functions: it shares neither code nor
paths of hooks with the adapter.
"""

from __future__ import annotations

import copy
import gc
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmxai.errors import ArgumentError, SiteNotFiredError
from mmxai.models import load_model
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

KIND = ROW_COLUMNS.index("token_type")


def linear(module: nn.Module):
    """As a function of the weights alone; GPT-2's Conv1D holds them transposed."""
    transposed = type(module).__name__ == "Conv1D"
    weight = module.weight.T if transposed else module.weight
    return lambda x: F.linear(x, weight, module.bias)


def layer_norm(module: nn.Module):
    return lambda x: F.layer_norm(x, x.shape[-1:], module.weight, module.bias, module.eps)


def rms_norm(module: nn.Module, plus: float = 0.0):
    eps = getattr(module, "variance_epsilon", None) or module.eps

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * (plus + module.weight)

    return norm


def rope(x: torch.Tensor, theta: float, part: float = 1.0) -> torch.Tensor:
    """Rotary embedding of `[B, H, T, d]`, first half against second half."""
    dims = int(x.shape[-1] * part)
    turned, rest = x[..., :dims], x[..., dims:]
    frequency = theta ** (-torch.arange(0, dims, 2) / dims)
    angle = torch.arange(x.shape[2])[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    a, b = turned[..., : dims // 2], turned[..., dims // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


@dataclass
class Block:
    """A block as functions of the weights. `residual`: as in `mmxai.models.adapter.Family`. `only`: bool
    `[B, T, T]`, the keys that its queries may read at most."""

    heads: int
    q: Any
    k: Any
    v: Any
    o: Any
    up: Any
    down: Any
    act: Any
    norm1: Any
    norm2: Any
    gated: Any = None
    after_attn: Any = None
    after_mlp: Any = None
    turn: Any = None
    scale: float | None = None
    softcap: float | None = None
    window: int | None = None
    only: torch.Tensor | None = None
    residual: str = "sequential"
    bias: torch.Tensor | None = None  # added to the scores, `[heads, T, T]`


def run_block(x: torch.Tensor, b: Block, allowed: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every site of a block. allowed: bool `[B, T, T]`, which keys a query may read."""
    post = b.residual == "post-norm"
    same = lambda t: t  # noqa: E731
    out = {"resid_pre": x}
    h = x if post else b.norm1(x)
    q, k, v = b.q(h), b.k(h), b.v(h)
    out |= {"q": q, "k": k, "v": v}
    head_dim = q.shape[-1] // b.heads
    split = lambda t: t.unflatten(-1, (-1, head_dim)).transpose(1, 2)  # noqa: E731
    q, k, v = split(q), split(k), split(v)
    if b.turn:
        q, k = b.turn(q), b.turn(k)
    groups = q.shape[1] // k.shape[1]
    k, v = (torch.cat([t[:, i : i + 1] for i in range(t.shape[1]) for _ in range(groups)], 1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * (b.scale or 1 / math.sqrt(head_dim))
    if b.softcap:
        scores = torch.tanh(scores / b.softcap) * b.softcap
    if b.bias is not None:
        scores = scores + b.bias
    steps = torch.arange(x.shape[1])
    if b.window:
        allowed = allowed & (steps[:, None] - steps[None, :] < b.window)
    if b.only is not None:
        allowed = allowed & b.only
    pattern = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(-1).nan_to_num()
    z = (pattern @ v).transpose(1, 2).flatten(-2)
    attn = (b.after_attn or same)(b.o(z))
    out |= {"pattern": pattern, "z": z, "attn_out": attn}
    if b.residual == "parallel":
        source = b.norm2(x)
    else:
        mid = b.norm1(x + attn) if post else x + attn
        out["resid_mid"] = mid
        source = mid if post else b.norm2(mid)
    pre = b.up(source)
    hidden = b.act(pre) * (b.gated(source) if b.gated else 1)
    mlp = (b.after_mlp or same)(b.down(hidden))
    out |= {"mlp_pre": pre, "mlp_post": hidden, "mlp_out": mlp}
    if b.residual == "parallel":
        out["resid_post"] = x + attn + mlp
    else:
        out["resid_post"] = b.norm2(mid + mlp) if post else mid + mlp
    return out


@dataclass
class Reference:
    """A tower as functions: `start` makes `(embed, 0.resid_pre)`, `end` the sites after the blocks."""

    tower: str
    start: Any
    blocks: list[Block]
    end: Any = field(default=lambda x: {})
    causal: bool = True
    also: torch.Tensor | bool = False
    """bool `[B, T, T]`: what is read beside what causal attention reads."""
    patterns: bool = True
    """False: a tower without pattern sites."""


def run_reference(ref: Reference, keys: torch.Tensor) -> dict[str, torch.Tensor]:
    """keys: bool `[B, T]`, which positions are no padding."""
    embed, x = ref.start()
    length = x.shape[1]
    steps = torch.arange(length)
    allowed = keys[:, None, :] & torch.ones(length, length, dtype=torch.bool)
    if ref.causal:
        allowed = allowed & ((steps[:, None] >= steps[None, :]) | ref.also)
    sites = {f"{ref.tower}.embed": embed}
    for i, block in enumerate(ref.blocks):
        done = run_block(x, block, allowed)
        shown = [kind for kind in done if ref.patterns or kind != "pattern"]
        sites |= {f"{ref.tower}.{i}.{kind}": done[kind] for kind in shown}
        x = done["resid_post"]
    return sites | {f"{ref.tower}.{kind}": value for kind, value in ref.end(x).items()}


def shake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights away from the zeros and ones of initialisation, so that every term matters."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.15)
    return module.eval()


def count_hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def flat(out: Any) -> list[torch.Tensor]:
    """All floating tensors of a forward's result."""
    if isinstance(out, torch.Tensor):
        return [out] if out.is_floating_point() else []
    values = out.values() if hasattr(out, "values") else out if isinstance(out, tuple | list) else ()
    return [t for v in values for t in flat(v)]


def close(a: torch.Tensor, b: torch.Tensor, tol: float = 2e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tol * 5, atol=tol * max(1.0, b.abs().max().item()))


class AdapterTests:
    """Subclass: `make()` a tiny random module, `tensors()` its inputs, `references(module, tensors)`."""

    def make(self) -> nn.Module:
        raise NotImplementedError

    def tensors(self) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def references(self, module: nn.Module, tensors: dict[str, torch.Tensor]) -> list[Reference]:
        raise NotImplementedError

    def others(self, module: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Site -> value of those beside the towers."""
        return {}

    def states(self, module: nn.Module, tower: Any, tensors: dict[str, torch.Tensor], towers: int) -> Any:
        """transformers' own hidden states of a tower, `[B, T, D]` each."""
        method = getattr(module, tower.spec.method) if towers > 1 else module
        own = {k: v for k, v in tensors.items() if (k == "pixel_values") == (tower.name == "vision")}
        return method(**own, output_hidden_states=True).hidden_states

    def arranged(self, site: str, value: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """A reference's value by samples, `[B, T, D]`, where the reference computes tile by tile."""
        return value

    @pytest.fixture
    def module(self) -> nn.Module:
        torch.manual_seed(1)
        return shake(self.make())

    @pytest.fixture
    def model(self, module):
        return load_model(module)

    def text(self, length: int = 7, vocab: int = 60) -> dict[str, torch.Tensor]:
        torch.manual_seed(2)
        ids = torch.randint(10, vocab, (3, length))
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
        return {"input_ids": ids, "attention_mask": mask}

    def image(self, size: int = 16) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return {"pixel_values": torch.randn(3, 3, size, size)}

    step = 1e-3

    def doubled(self, module: nn.Module) -> nn.Module:
        """A copy in float64, for finite differences of `step`."""
        return copy.deepcopy(module).double()

    def skipping(self, x):
        """What a block that does nothing returns."""
        return x

    def keep(self, model, run, site: str) -> torch.Tensor:
        return run.rows[model.space_of(site)][..., KIND] != TOKEN_CODES["pad"]

    # The contract

    def test_sites_have_the_width_and_space_they_declare(self, model):
        run = model.run(self.tensors(), capture="*")
        assert list(run.acts) == list(model.sites())
        for site, width in model.sites().items():
            space = model.space_of(site)
            assert run.acts[site].shape[-1] == width, site
            assert run.acts[site].shape[:2] == run.rows[space].shape[:2], site
            assert run.rows[space].shape[1] <= model.rows_per_sample(space)
            kinds = {k for k, c in TOKEN_CODES.items() if (run.rows[space][..., KIND] == c).any()} - {"pad"}
            assert kinds <= model.token_types(space) if model.token_types(space) else not kinds

    def test_every_site_equals_the_reference_computed_from_weights(self, model, module):
        tensors = self.tensors()
        run = model.run(tensors, capture="*")
        seen = set()
        for ref in self.references(module, tensors):
            mask = tensors.get("attention_mask") if ref.tower == "text" else None
            with torch.no_grad():
                shape = ref.start()[1].shape[:2]
                keys = torch.ones(shape, dtype=torch.bool) if mask is None else mask.bool()
                expected = run_reference(ref, keys)
            for site, value in expected.items():
                got = run.acts[site]
                if site.endswith(".pattern"):
                    heads, n = value.shape[1], value.shape[-1]
                    got = got.unflatten(-1, (heads, -1))
                    assert not got[..., n:].any()
                    got, value = got[..., :n].flatten(-2), value.transpose(1, 2).flatten(-2)
                value = self.arranged(site, value, tensors)
                keep = self.keep(model, run, site)
                close(got[keep], value[keep])
                seen.add(site)
        with torch.no_grad():
            others = self.others(module, tensors)
        for site, value in others.items():
            keep = self.keep(model, run, site)
            close(run.acts[site][keep], value[keep])
            seen.add(site)
        assert seen == set(model.sites())

    def test_hidden_states(self, model, module):
        tensors = self.tensors()
        run = model.run(tensors, capture="*.resid_*")
        for tower in model.towers.values():
            with torch.no_grad():
                states = self.states(module, tower, tensors, len(model.towers))
            blocks = tower.dims.blocks
            assert len(states) == blocks + 1
            keep = self.keep(model, run, f"{tower.name}.0.resid_pre")
            for i in range(blocks):
                close(run.acts[f"{tower.name}.{i}.resid_pre"][keep], states[i][keep])
                if i + 1 < blocks:
                    close(run.acts[f"{tower.name}.{i}.resid_post"][keep], states[i + 1][keep])

    def test_eager_and_sdpa_agree(self, model, module):
        tensors = self.tensors()
        sites = [s for s in model.sites() if not s.endswith("pattern")]
        sdpa = model.run(tensors, capture=sites).acts
        eager = load_model(copy.deepcopy(module))
        eager.module.set_attn_implementation("eager")
        run = eager.run(tensors, capture="*")
        for site in sites:
            keep = self.keep(model, run, site)
            close(run.acts[site][keep], sdpa[site][keep], 1e-4)

    def test_pattern_leaves_the_attention_implementation_as_it_was(self, model, module):
        before = {m.config._attn_implementation for m in module.modules() if hasattr(m, "config")}
        tower = next(iter(model.towers))
        with pytest.raises(ZeroDivisionError):
            model.run(self.tensors(), read={f"{tower}.1.pattern": lambda x: 1 / 0})
        assert {m.config._attn_implementation for m in module.modules() if hasattr(m, "config")} == before
        assert before != {"mmxai_eager"}

    def test_bfloat16(self, module):
        low = load_model(copy.deepcopy(module).to(torch.bfloat16))
        run = low.run(self.tensors(), capture="*")
        full = load_model(module).run(self.tensors(), capture="*")
        for site, x in run.acts.items():
            assert x.dtype == torch.bfloat16, site
            keep = self.keep(low, run, site)
            error = (x[keep].float() - full.acts[site][keep]).norm() / full.acts[site][keep].norm()
            assert error < 0.1, (site, error)

    def test_one_site_at_a_time_fires_once_and_stops(self, model):
        everything = model.run(self.tensors(), capture="*").acts
        for site in model.sites():
            run = model.run(self.tensors(), capture=site, stop=True)
            assert run.out is None and list(run.acts) == [site]
            close(run.acts[site], everything[site], 1e-4)

    def test_identity_edit_changes_nothing_and_zero_edit_something(self, model):
        tensors = self.tensors()
        plain = flat(model.run(tensors).out)
        for site in model.sites():
            same = flat(model.run(tensors, edit={site: lambda x: x.clone()}).out)
            tol = 1e-4 if site.endswith("pattern") else 1e-6
            assert len(same) == len(plain)
            for a, b in zip(same, plain, strict=True):
                close(a.nan_to_num(), b.nan_to_num(), tol)
            zeroed = model.run(tensors, capture=site, edit={site: torch.zeros_like})
            assert not zeroed.acts[site].any()
            changed = flat(zeroed.out)
            moved = any((a - b).abs().max() > 1e-4 for a, b in zip(changed, plain, strict=True))
            assert moved == model.live(site), site

    def test_edits_reach_everything_downstream(self, model):
        """An edit of resid_mid must reach the stream and the norm behind it alike."""
        tower = next(iter(model.towers.values()))
        if f"{tower.name}.0.resid_mid" not in model.sites() or model.adapter.residual == "post-norm":
            pytest.skip("no pre-norm resid_mid in this family")
        sites = [f"{tower.name}.0.{k}" for k in ("resid_mid", "mlp_out", "resid_post")]
        run = model.run(self.tensors(), capture=sites, edit={sites[0]: lambda x: x * 2 + 1})
        mid, mlp, post = (run.acts[s] for s in sites)
        keep = self.keep(model, run, sites[0])
        close(post[keep], (mid + mlp)[keep])
        again = model.run(self.tensors(), capture=sites[1], edit={sites[0]: lambda x: mid})
        close(again.acts[sites[1]][keep], mlp[keep])

    def test_gradients_equal_finite_differences(self, module):
        # Norms and softmax compute in float32 whatever the dtype, so steps must not be too small.
        double = load_model(self.doubled(module))
        tensors = self.tensors()

        def metric(out):
            return sum(t.nan_to_num().double().pow(2).mean() for t in flat(out)[:2])

        sites = [s for s in double.sites() if not s.endswith("embeds")]
        run = double.run(tensors, capture=sites, grad=metric)
        assert set(run.grads) == set(sites)
        tower = next(iter(double.towers))
        torch.manual_seed(5)
        for kind in ("resid_mid", "q", "v", "pattern", "z", "mlp_post", "resid_pre"):
            site = f"{tower}.1.{kind}"
            if site not in run.grads:
                continue
            step = torch.randn_like(run.acts[site]) * self.step
            up = metric(double.run(tensors, edit={site: lambda x, step=step: x + step}).out)
            down = metric(double.run(tensors, edit={site: lambda x, step=step: x - step}).out)
            expected = (run.grads[site] * step).sum() * 2
            assert expected.abs() > 0
            torch.testing.assert_close(up - down, expected, rtol=1e-2, atol=1e-9)
        assert all(p.grad is None for p in double.module.parameters())

    def test_hooks_are_gone_whatever_happens(self, model, module):
        tensors, tower = self.tensors(), next(iter(model.towers))
        model.run(tensors)  # transformers may put hooks of its own on a model, once, which then stay
        before = count_hooks(module)

        def interrupt(x):
            raise KeyboardInterrupt

        model.run(tensors, capture="*")
        model.run(tensors, capture=f"{tower}.0.*", stop=True)
        with pytest.raises(KeyboardInterrupt):
            model.run(tensors, capture="*", edit={f"{tower}.1.z": interrupt})
        with pytest.raises(ArgumentError):
            model.run(tensors, edit={f"{tower}.1.z": lambda x: x[:1]})
        assert count_hooks(module) == before

    def test_a_site_that_does_not_run_is_an_error(self, model, module):
        tower = next(iter(model.towers.values()))
        block = module.get_submodule(tower.path).get_submodule(tower.spec.blocks)[1]
        block.forward = lambda x, *args, **kwargs: self.skipping(x)
        with pytest.raises(SiteNotFiredError, match=r"1\.z"):
            model.run(self.tensors(), capture=f"{tower.name}.1.z")
        del block.forward

    def test_compiled_models_give_the_same(self, model, module):
        tower = next(iter(model.towers.values()))
        block = module.get_submodule(tower.path).get_submodule(tower.spec.blocks)[0]
        site = f"{tower.name}.0.resid_post"
        plain = model.run(self.tensors(), capture=site, edit={f"{tower.name}.0.mlp_out": lambda x: 2 * x})
        block.compile(backend="eager")
        again = model.run(self.tensors(), capture=site, edit={f"{tower.name}.0.mlp_out": lambda x: 2 * x})
        close(again.acts[site], plain.acts[site])
        block._compiled_call_impl = None

    def test_folder_round_trip(self, model, module, tmp_path):
        module.save_pretrained(tmp_path / "saved")
        again = load_model(tmp_path / "saved")
        assert again.sites() == model.sites() and again.dtype == torch.float32
        assert again.identity["weights"] == model.identity["weights"]
        assert again.identity["config"] == model.identity["config"]
        a, b = (m.run(self.tensors(), capture="*.resid_post").acts for m in (model, again))
        for site in a:
            close(a[site], b[site])

    def test_nothing_is_left_behind(self, model):
        tensors = self.tensors()
        for _ in range(3):
            model.run(tensors, capture="*")
        gc.collect()
        before = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
        for _ in range(5):
            model.run(tensors, capture="*")
        gc.collect()
        assert sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()) == before
