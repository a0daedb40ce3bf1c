"""`check`: verify every site of a loaded model against recomputation, on the user's own checkpoint.

Sites are computed again from their neighbours through the model's own submodules, called directly and not
through hooks: an adapter that reads the wrong tensor, or reads it on the wrong side of a norm, shows up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmxai.errors import ArgumentError
from mmxai.models import attention
from mmxai.models.adapter import BoundTower
from mmxai.models.inputs import Inputs
from mmxai.models.model import Model
from mmxai.models.parts import HeadsFirst, HeadsLast
from mmxai.types import ROW_COLUMNS, TOKEN_CODES, TOKEN_TYPES

_TYPE, _Y, _X = (ROW_COLUMNS.index(c) for c in ("token_type", "y", "x"))
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@dataclass
class Line:
    """One kind of check: how many comparisons, the worst relative error, which site it was at."""

    what: str
    count: int = 0
    worst: float = 0.0
    where: str = ""


@dataclass
class CheckReport:
    """`problems` is empty when all is well; printing it shows a table."""

    model: str
    tolerance: float
    lines: dict[str, Line] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    def compare(self, what: str, site: str, got: torch.Tensor, expected: torch.Tensor) -> None:
        scale = expected.float().abs().max().clamp(min=1e-6)
        error = float((got.float() - expected.float()).abs().max() / scale) if got.numel() else 0.0
        self.note(
            what, site, error, error <= self.tolerance, f"relative error {error:.1e} > {self.tolerance:.0e}"
        )

    def note(self, what: str, site: str, error: float, good: bool, problem: str) -> None:
        line = self.lines.setdefault(what, Line(what))
        line.count += 1
        if not error <= line.worst:
            line.worst, line.where = error, site
        if not good:
            self.problems.append(f"{site}: {what}: {problem}")

    def __str__(self) -> str:
        width = max(len(what) for what in self.lines)
        verdict = "every check passed" if self.ok else f"{len(self.problems)} problems"
        rows = [f"{self.model}: {verdict} ({self.seconds:.1f} s)"]
        bad = {p.split(": ")[1] for p in self.problems}
        for line in self.lines.values():
            mark = "FAILED" if line.what in bad else "ok"
            rows.append(f"  {line.what:<{width}}  {line.count:>4}  {line.worst:8.1e}  {mark}")
        return "\n".join(rows + [f"  ! {p}" for p in self.problems])


def check(model: Model, inputs: Any = None, *, budget: float = 40.0) -> CheckReport:
    """Verify sites, hooks, edits and row tables. inputs: as for `model.run`; default: two random samples.

    budget: seconds after which no further edits are tried (the report says how many were).
    """
    if not model.towers:
        raise ArgumentError(
            "check: got a wrapped module, expected a model with an adapter; its sites are plain outputs"
        )
    start = time.monotonic()
    report = CheckReport(model.name, _TOLERANCE.get(model.dtype, 1e-2))
    given = model.prepare(inputs if inputs is not None else _random(model))
    states = {
        t.name: _hidden_states(model, t, given)
        for t in model.towers.values()
        if t.spec.input in given.tensors
    }
    hooks = _hooks(model.module)  # from here on: transformers keeps hooks of its own for hidden_states
    sites = [s for s in model.sites() if model.towers[_tower(model, s)].spec.input in given.tensors]
    plain = [s for s in sites if not s.endswith(".pattern")]
    fused = model.run(given, capture=plain)
    with attention.receiving() as received:
        run = model.run(given, capture=sites)
    for tower in model.towers.values():
        if tower.spec.input in given.tensors:
            own = {s: x for s, x in run.acts.items() if model.space_of(s).split(".")[0] == tower.name}
            tables = {s: run.rows[model.space_of(s)] for s in own}
            if tower.tile:
                own, tables = _by_tile(tower, own, tables)
            view = _View(model, tower, own, tables[f"{tower.name}.0.resid_pre"], received, report)
            with torch.no_grad():
                view.blocks()
                view.end()
                view.hidden_states(states[tower.name])
            _rows(report, tower, given, run.rows[tower.name])
    for site in plain:
        kept = _kept(run.rows[model.space_of(site)]).to(model.device)
        report.compare(
            "same with fused and eager attention", site, fused.acts[site][kept], run.acts[site][kept]
        )
    _edits(model, given, sites, report, start + budget)
    same = _hooks(model.module) == hooks
    report.note("hooks removed", "model", 0.0, same, "hooks are left on the model")
    report.seconds = time.monotonic() - start
    return report


class _View:
    """One tower's captured sites, and the recomputations of each."""

    def __init__(
        self,
        model: Model,
        tower: BoundTower,
        acts: dict[str, torch.Tensor],
        rows: torch.Tensor,
        received: Mapping[nn.Module, attention.Received],
        report: CheckReport,
    ):
        self.received = received
        self.model, self.tower, self.acts, self.report = model, tower, acts, report
        self.keep = _kept(rows).to(model.device)
        adapter = model.adapter
        self.residual = adapter.residual if adapter else "sequential"

    def compare(self, what: str, site: str, expected: torch.Tensor) -> None:
        self.report.compare(what, site, self.acts[site][self.keep], expected[self.keep])

    def blocks(self) -> None:
        stack: Any = self.tower.root.get_submodule(self.tower.spec.blocks)
        for index, block in enumerate(stack):
            try:
                self.block(index, block)
            except RuntimeError as error:  # torch's error where a site has the wrong shape for its neighbours
                name = f"{self.tower.name}.{index}"
                self.report.note("sites fit together", name, 1.0, False, str(error).splitlines()[0])

    def block(self, index: int, block: nn.Module) -> None:
        prefix = f"{self.tower.name}.{index}."
        at = {kind: self.acts[prefix + kind] for kind in self.tower.spec.block}
        anatomy = self.tower.spec.anatomy
        norm1, norm2 = block.get_submodule(anatomy.norm1), block.get_submodule(anatomy.norm2)
        pre, post = at["resid_pre"], self.residual == "post-norm"
        if index:
            self.compare(
                "resid_pre = resid_post before",
                prefix + "resid_pre",
                self.acts[f"{self.tower.name}.{index - 1}.resid_post"],
            )
        if self.residual == "parallel":
            self.compare(
                "resid_post = pre + attn + mlp", prefix + "resid_post", pre + at["attn_out"] + at["mlp_out"]
            )
            source = norm2(pre)
        else:
            mid = pre + at["attn_out"]
            last = at["resid_mid"] + at["mlp_out"]
            self.compare(
                "resid_mid = resid_pre + attn_out", prefix + "resid_mid", norm1(mid) if post else mid
            )
            self.compare(
                "resid_post = resid_mid + mlp_out", prefix + "resid_post", norm2(last) if post else last
            )
            source = at["resid_mid"] if post else norm2(at["resid_mid"])
        for kind in "qkv":
            expected = self.projected(kind, block, pre if post else norm1(pre))
            self.compare("q, k, v from weights", prefix + kind, expected)
        taps = self.tower.spec.block
        self.compare(
            "mlp_pre from weights", prefix + "mlp_pre", block.get_submodule(taps["mlp_pre"].path)(source)
        )
        gate = block.get_submodule(anatomy.gate)(source) if anatomy.gate else 1
        self.compare(
            "mlp_post = act(mlp_pre)",
            prefix + "mlp_post",
            block.get_submodule(anatomy.act)(at["mlp_pre"]) * gate,
        )
        self.compare(
            "mlp_post -> mlp_out",
            prefix + "mlp_out",
            self.through(block, "mlp_post", "mlp_out", at["mlp_post"]),
        )
        self.compare("z -> attn_out", prefix + "attn_out", self.through(block, "z", "attn_out", at["z"]))
        if "pattern" in at:
            self.pattern(prefix, at)
        pattern = self.tower.sites.get(prefix + "pattern")
        if pattern is not None and pattern.point.module in self.received:
            for kind, heads in zip("qk", self.received[pattern.point.module][:2], strict=True):
                self.same_length(prefix + kind, at[kind], heads)

    def projected(self, kind: str, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        tap, dims = self.tower.spec.block[kind], self.tower.dims
        module = block.get_submodule(tap.path)
        if isinstance(module, nn.MultiheadAttention):
            return F.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)["qkv".index(kind)]
        if kind not in self.tower.spec.anatomy.heads:
            return tap.part.read(module(x), dims)
        path, part = self.tower.spec.anatomy.heads[kind]
        heads = part.read(block.get_submodule(path)(x), dims).unflatten(-1, (-1, dims.head_dim))
        if isinstance(tap.part, HeadsFirst):
            return tap.part.read(module(heads.transpose(1, 2)), dims)
        return HeadsLast().read(module(heads), dims)

    def through(self, block: nn.Module, inner: str, outer: str, x: torch.Tensor) -> torch.Tensor:
        """The projection behind `inner`, then whatever norm or scale `outer` is behind."""
        taps = self.tower.spec.block
        module = block.get_submodule(taps[inner].path)
        # torch's attention never calls its output projection, only uses its weights.
        y = (module.out_proj if isinstance(module, nn.MultiheadAttention) else module)(x)
        path = taps[outer].path
        around = f"{taps[inner].path}.".startswith(f"{path}.")
        return y if around else block.get_submodule(path)(y)

    def pattern(self, prefix: str, at: dict[str, torch.Tensor]) -> None:
        dims, v = self.tower.dims, at["v"]
        pattern = at["pattern"].unflatten(-1, (dims.heads, -1))[..., : v.shape[1]]
        ones = pattern.sum(-1)
        self.report.compare(
            "pattern rows sum to 1", prefix + "pattern", ones[self.keep], torch.ones_like(ones)[self.keep]
        )
        values = v.unflatten(-1, (dims.kv_heads, dims.head_dim)).repeat_interleave(
            dims.heads // dims.kv_heads, 2
        )
        self.compare(
            "pattern @ v = z", prefix + "z", torch.einsum("bqhk,bkhd->bqhd", pattern, values).flatten(2)
        )

    def same_length(self, site: str, x: torch.Tensor, heads: torch.Tensor) -> None:
        """Rotary turns q and k and keeps their lengths, up to one factor for all."""
        got, seen = x.unflatten(-1, (heads.shape[1], -1)).norm(dim=-1), heads.transpose(1, 2).norm(dim=-1)
        factor = seen[self.keep].mean() / got[self.keep].mean()
        self.report.compare("q, k as attention gets them", site, (got * factor)[self.keep], seen[self.keep])

    def end(self) -> None:
        name, spec = self.tower.name, self.tower.spec
        last = self.acts[f"{name}.{self.tower.dims.blocks - 1}.resid_post"]
        site = f"{name}.ln_final"
        if site not in self.acts:
            return
        normed = self.tower.root.get_submodule(spec.after["ln_final"].path)(last)
        got = self.acts[site]
        if got.shape != normed.shape:
            self.report.compare("ln_final = norm(last resid_post)", site, got, normed[:, :1])
        else:
            self.compare("ln_final = norm(last resid_post)", site, normed)
        joint = f"{name}.embeds"
        if joint in self.acts and spec.after["embeds"].path.startswith("/"):
            projection = self.model.module.get_submodule(spec.after["embeds"].path[1:])
            made = projection(got)  # of every row: the pooled one must be among them
            best = (made - self.acts[joint]).abs().amax(-1).argmin(1)
            picked = made[torch.arange(len(made), device=made.device), best][:, None]
            self.report.compare("embeds = projection(ln_final)", joint, self.acts[joint], picked)

    def hidden_states(self, states: Sequence[torch.Tensor]) -> None:
        if not states:
            return
        if states[0].ndim == 2:  # of all samples one after the other
            for index, state in enumerate(states[:-1]):
                site = f"{self.tower.name}.{index}.resid_pre"
                self.report.compare("resid_pre = hidden_states", site, self.acts[site][self.keep], state)
            return
        for index, state in enumerate(states[:-1]):
            self.compare("resid_pre = hidden_states", f"{self.tower.name}.{index}.resid_pre", state)
        # transformers puts the final norm on the last hidden state of some families and not of others.
        ends = [f"{self.tower.name}.{self.tower.dims.blocks - 1}.resid_post", f"{self.tower.name}.ln_final"]
        fitting = [s for s in ends if s in self.acts and self.acts[s].shape == states[-1].shape]
        if not fitting:  # a projection comes behind the norm (OPT-350m), and no site is behind that
            return
        errors = [float((self.acts[s] - states[-1])[self.keep].abs().max()) for s in fitting]
        site = fitting[errors.index(min(errors))]
        self.compare("last hidden_states = resid_post or ln_final", site, states[-1])


def _hidden_states(model: Model, tower: BoundTower, given: Inputs) -> Sequence[torch.Tensor]:
    """transformers' own hidden states; nothing for models of other libraries."""
    if model.config is None:
        return ()
    tensors = given.to(model.device, model.dtype).tensors
    with torch.no_grad():
        out = model.forward(tensors, {tower.name}, output_hidden_states=True)
    return getattr(out, "hidden_states", None) or ()


def _tower(model: Model, site: str) -> str:
    return model.tower_of(site) or ""


def _by_tile(
    tower: BoundTower, acts: dict[str, torch.Tensor], rows: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Pictures of a sample apart from one another, as the tower computes them: `[tiles, T, D]`."""
    out: dict[str, torch.Tensor] = {}
    tables: dict[str, torch.Tensor] = {}
    for site, x in acts.items():
        each = 1 if x.shape[1] < tower.tile else tower.tile
        table = rows[site].unflatten(1, (-1, each)).flatten(0, 1)
        there = _kept(table).any(1)
        tables[site] = table[there]
        out[site] = x.unflatten(1, (-1, each)).flatten(0, 1)[there.to(x.device)]
    return out, tables


def _kept(rows: torch.Tensor) -> torch.Tensor:
    return rows[..., _TYPE] != TOKEN_CODES["pad"]


def _rows(report: CheckReport, tower: BoundTower, given: Inputs, rows: torch.Tensor) -> None:
    site = f"{tower.name}.0.resid_pre"
    kinds = rows[..., _TYPE]
    if tower.spec.input == "pixel_values":
        if tower.tile:
            rows = rows[:, : tower.tile]
        prefix = len(tower.spec.prefix)
        named = [TOKEN_TYPES[k] for k in kinds[0, :prefix].tolist()]
        grid = rows[0, prefix:, _Y].max() + 1, rows[0, prefix:, _X].max() + 1
        good = named == list(tower.spec.prefix) and int(grid[0] * grid[1]) == rows.shape[1] - prefix
    else:
        mask = given.tensors.get("attention_mask", torch.ones_like(given.tensors["input_ids"])).cpu().bool()
        good = torch.equal(mask, _kept(rows)) or (tower.spec.fill and "attention_mask" not in given.tensors)
    report.note("row table fits", site, 0.0, good, "the row table does not describe the tower's tokens")


def _edits(model: Model, given: Inputs, sites: list[str], report: CheckReport, deadline: float) -> None:
    plain = _flat(model.run(given).out)
    same = _flat(model.run(given, edit={s: lambda x: x.clone() for s in sites}).out)
    error = max(_difference(a, b) for a, b in zip(same, plain, strict=True))
    report.note(
        "an edit to the same value changes nothing",
        "all sites",
        error,
        error <= report.tolerance,
        f"changed by {error:.1e}",
    )
    last = {t.name: t.dims.blocks - 1 for t in model.towers.values()}
    ends = [(t, b) for t, n in last.items() for b in ("0", str(n))]
    chosen = [s for s in sites if tuple(s.split(".")[:2]) in ends or s.count(".") < 2]
    for site in chosen:
        if time.monotonic() > deadline:
            break
        zeroed = _flat(model.run(given, edit={site: torch.zeros_like}).out)
        change = max(_difference(a, b) for a, b in zip(zeroed, plain, strict=True))
        if "text" in given.rows and not model.live(site):
            what, good = "an edit behind what the text reads changes nothing", change <= report.tolerance
            report.note(what, site, change, good, f"the output changed by {change:.1e}")
        else:
            what = "an edit to zero changes the output"
            report.note(what, site, 0.0, change > 0, "the output stayed the same")


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.float().nan_to_num(), b.float().nan_to_num()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) if a.numel() else 0.0


def _flat(out: Any) -> list[torch.Tensor]:
    return [t for t in _leaves(out) if t.is_floating_point()]


def _leaves(out: Any) -> Iterator[torch.Tensor]:
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, dict):
        for value in out.values():
            yield from _leaves(value)
    elif isinstance(out, tuple | list):
        for value in out:
            yield from _leaves(value)


def _random(model: Model) -> dict[str, torch.Tensor]:
    """Two random samples; of a text pair the second is shorter, so that padding is checked too."""
    generator = torch.Generator().manual_seed(0)
    tensors = dict(model.feeds.example().tensors)
    if "pixel_values" in tensors:
        tensors["pixel_values"] = torch.randn(tensors["pixel_values"].shape, generator=generator)
    if "input_ids" in tensors:
        config = next(t.config for t in model.towers.values() if t.spec.input == "input_ids")
        ids = torch.randint(3, config.vocab_size - 3, tensors["input_ids"].shape, generator=generator)
        end = getattr(config, "eos_token_id", None)
        if isinstance(end, int) and 0 <= end < config.vocab_size:
            ids[0, -1] = ids[1, -3] = end
        if model.adapter is not None and model.adapter.splice is not None:
            image = model.adapter.splice.token(model.config)
            ids[ids == image] = 0
            ids = torch.where(tensors["input_ids"] == image, image, ids)
        tensors["input_ids"] = ids
        tensors["attention_mask"][1, -2:] = 0
    return tensors


def _hooks(module: nn.Module) -> int:
    tables: list[Callable[[nn.Module], Any]] = [lambda m: m._forward_hooks, lambda m: m._forward_pre_hooks]
    return sum(len(table(m)) for m in module.modules() for table in tables)
