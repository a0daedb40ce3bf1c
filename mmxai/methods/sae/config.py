"""The options of a training run; `mmxai sae train`'s are generated from this dataclass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from itertools import product
from math import inf
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mmxai.errors import ArgumentError
from mmxai.methods.sae.spec import Arch

PENALTIES = {"relu": 0.05, "jumprelu": 1.0}
SHARED = (
    "sites", "sites_out", "crosscoder", "batch", "rows", "epochs", "tokens", "split", "window", "seed",
    "log_every", "save_every", "at_once", "device", "init_rows",
)  # fmt: skip
"""What several SAEs that share every batch have in common."""


@dataclass(frozen=True)
class TrainConfig:
    sites: tuple[str, ...] = ("*.resid_post",)
    """Sites or globs; an SAE each."""
    sites_out: tuple[str, ...] = ()
    """A transcoder from each of SITES to the one here in its place; globs are paired block by block."""
    crosscoder: bool = False
    """One SAE of all SITES side by side, with shared codes; it writes SITES_OUT where these are given."""

    arch: Arch = "topk"
    """topk (with AuxK), batchtopk, jumprelu, relu (L1) or matryoshka (over batchtopk)."""
    latents: int = 8192
    k: int | None = 32
    """Active latents a row; batchtopk, matryoshka: on average. Not for relu and jumprelu."""
    prefixes: tuple[int, ...] = ()
    """matryoshka: sizes of the nested dictionaries. Default: 1, 3, 7, 15 and 32 parts of 32."""
    penalty: float | None = None
    """relu: of the L1 norm of the codes, where a row's centred length is 1 (default 0.05). jumprelu: of L0,
    or of (L0 / target - 1)^2 (default 1)."""
    target_l0: float | None = 32.0
    """jumprelu: active latents a row that the penalty pulls to; None charges every one."""
    bandwidth: float | None = None
    """jumprelu: width of the window in which thresholds learn; default 0.03 / sqrt(D)."""
    penalty_warmup: float = 0.2
    """Share of the steps over which the penalty rises from 0."""
    skip: bool = False
    """Transcoders: a linear path beside the latents."""

    rows: int | None = None
    """Train on this many rows; default: as EPOCHS say."""
    epochs: float = 1.0
    """Passes over the selected rows."""
    batch: int = 4096
    """Rows a step."""
    tokens: str | None = None
    """Token types to train on, comma-separated: cls patch register special text image; or 'last'."""
    split: Literal["train", "val", "test"] | None = "train"
    """Which samples: the train split holds 80% of them, so that rows of held-out ones are never seen."""
    window: int | Literal["auto"] | None = "auto"
    """Rows a window of the shuffle; auto: windows only where the sites do not fit in memory."""
    seed: int = 0
    """Of the rows' order and of the weights."""

    lr: float | None = None
    """Adam's; default 2e-4 / sqrt(latents / 16384), more in runs of fewer than 5000 steps (`Schedule.of`)."""
    warmup: int | None = None
    """Steps over which the rate rises; default 1000 or a twentieth of the steps, whichever is less."""
    decay: float = 0.2
    """Share of the steps, the last ones, over which the rate falls to 0."""
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float | None = 1.0
    """Most length of the gradient; none does not clip."""
    init: Literal["tied", "untied"] = "tied"
    """The encoder begins as the decoder's transpose, or with directions of its own."""
    center: Literal["mean", "geometric_median", "zero"] = "geometric_median"
    """Where b_dec begins."""
    normalise: Literal["variance", "none"] = "variance"
    """Scale each site so that rows lie at a mean squared distance of 1 from their mean; kept with the SAE."""
    init_rows: int = 32768
    """Rows from which scales and b_dec are found."""
    frozen: Literal["none", "decoder"] = "none"
    """decoder: its random directions stay. A control, not a method."""
    dead_after: int | None = None
    """Rows without an activation after which a latent is dead; default 1/20 of the run, or 100 LATENTS / K
    if that is more, but 10 million at most."""
    aux: float | None = None
    """Weight of AuxK, which makes dead latents explain what is left; default 1/32, relu and jumprelu 0."""
    aux_k: int | None = None
    """How many dead latents a row AuxK takes; default half the width."""
    product: Literal["float32", "bfloat16"] = "float32"
    """Data type of the encoder's product; weights and sums stay float32."""

    device: str = "cpu"
    log_every: int = 50
    save_every: int = 500
    """Steps between checkpoints."""
    at_once: int = 1
    """Sites of a store trained side by side; each costs memory, and shares no read with the others."""

    def __post_init__(self) -> None:
        for name in ("sites", "sites_out", "prefixes"):
            value = getattr(self, name)
            if isinstance(value, Iterable):
                object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        self._check_kinds()

        def wrong(names: tuple[str, ...], fits: Callable[[Any], bool], expected: str) -> None:
            given = {n: v for n in names if (v := getattr(self, n)) is not None and not fits(v)}
            if given:
                raise ArgumentError(f"sae train: got {given}, expected {expected}")

        counted = ("latents", "batch", "log_every", "save_every", "at_once", "init_rows", "rows", "aux_k",
                   "dead_after")  # fmt: skip
        wrong(counted, lambda v: v >= 1, "at least 1")
        wrong(("lr", "epochs", "clip", "bandwidth", "target_l0"), lambda v: 0 < v < inf, "positive numbers")
        wrong(("penalty", "aux", "warmup", "eps", "seed"), lambda v: 0 <= v < inf, "0 or more")
        wrong(("decay", "penalty_warmup"), lambda v: 0 <= v <= 1, "shares between 0 and 1")
        wrong(("beta1", "beta2"), lambda v: 0 <= v < 1, "at least 0 and below 1")
        if self.rows is not None and self.rows < self.batch:
            raise ArgumentError(
                f"sae train: got {self.rows:,} rows, expected at least a batch ({self.batch:,})"
            )
        if not self.sites:
            raise ArgumentError("sae train: got no sites, expected at least one")
        if self.skip and not self.sites_out:
            raise ArgumentError("sae train: got skip without sites_out; only a transcoder has a skip path")

    def _check_kinds(self) -> None:
        for name, hint in _hints().items():
            if not _fits(given := getattr(self, name), hint):
                raise ArgumentError(f"sae train: got {name} = {given!r}, expected {_said(hint)}")

    def nested(self) -> tuple[int, ...]:
        """The prefixes of a matryoshka, else none."""
        if self.arch != "matryoshka":
            return self.prefixes
        shares = [max(1, self.latents * part // 32) for part in (1, 3, 7, 15, 32)]
        return self.prefixes or tuple(dict.fromkeys(shares))

    def k_of(self) -> int | None:
        return None if self.arch in PENALTIES else self.k

    def penalty_of(self) -> float:
        return PENALTIES[self.arch] if self.penalty is None else self.penalty

    def aux_of(self) -> float:
        if self.aux is not None:
            return self.aux
        return 0.0 if self.arch in PENALTIES else 1 / 32

    def lr_of(self, steps: int) -> float:
        """For a run of that many steps. A short one needs a higher rate to get anywhere (docs/sae.md)."""
        if self.lr is not None:
            return self.lr
        haste = min(8.0, max(1.0, (5000 / steps) ** 0.5))
        return haste * 2e-4 / (self.latents / 16384) ** 0.5

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "none"}


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(TrainConfig)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type: of `_KINDS`, words, a tuple of one kind, or any of several."""
    if hint in _KINDS:
        kinds = (int, float) if hint is float else hint
        return isinstance(value, kinds) and isinstance(value, bool) == (hint is bool)
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in parts
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, parts[0]) for item in value)
    return any(_fits(value, part) for part in parts)


def _said(hint: Any) -> str:
    """The type of a field in words."""
    if hint in _KINDS:
        return _KINDS[hint]
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(parts)}" if len(parts) > 1 else str(parts[0])
    if get_origin(hint) is tuple:
        return f"a tuple of which each is {_said(parts[0])}"
    return " or ".join(_said(part) for part in parts)


def sweep(config: TrainConfig, axes: tuple[str, ...]) -> list[TrainConfig]:
    """`("k=16,32", "latents=4096,8192")` -> the four configs, which share every batch."""
    values: list[list[tuple[str, Any]]] = []
    for axis in axes:
        name, equals, text = axis.partition("=")
        if not equals or name in SHARED or name not in {f.name for f in fields(config)}:
            able = sorted({f.name for f in fields(config)} - set(SHARED))
            raise ArgumentError(f"sweep: got {axis!r}, expected NAME=VALUE,VALUE with a name of {able}")
        hint = _hints()[name]
        values.append([(name, part if _fits(part, hint) else _value(part)) for part in text.split(",")])
    return [replace(config, **dict(chosen)) for chosen in product(*values)]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _short(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def variants(configs: list[TrainConfig]) -> list[str]:
    """A name for each of several configs by what differs, e.g. `latents4096-k16`; "" for a single one."""
    documents = [c.to_json() for c in configs]
    differ = [n for n in documents[0] if len({str(d[n]) for d in documents}) > 1]
    names = ["-".join(f"{n}{_short(d[n])}" for n in differ) for d in documents]
    if len(set(names)) < len(names):
        raise ArgumentError(
            f"train_sae: got configs that are the same twice, expected different ones: {names}"
        )
    shared = {n for n in differ if n in SHARED}
    if shared:
        raise ArgumentError(
            f"train_sae: got configs that differ in {sorted(shared)}; these share every batch"
        )
    return names
