"""What a declarative adapter is made of, and how one is bound to a loaded model.

An adapter file in `families/` holds a `Family`: which towers a model may have, where their block lists
are, and where on a block each kind of site passes. Nothing in it touches the model's code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from mmxai.capture.hooks import Point, original
from mmxai.errors import ModelError
from mmxai.models import arrange, attention, multihead
from mmxai.models.parts import POOLED, WHOLE, Dims, Part, pair

if TYPE_CHECKING:
    from mmxai.models.splice import Layout, Splice


@dataclass(frozen=True)
class Tap:
    """Where a kind of site passes.

    path: submodule relative to the block (or to the tower for sites without a block); "" is the block
        itself, a leading "/" starts at the loaded object; of "a|b" the first that is there.
    side: going into the module or coming out of it; "attention" and "multihead": inside transformers'
        attention or torch's `nn.MultiheadAttention`, shown while a run lasts.
    width: which of `Dims` the site is wide.
    in_place: see `mmxai.capture.hooks.Point`.
    optional: the submodule may be absent (a model without its projection head); then so is the site.
    folded: the submodule sees the rows of all samples in one dimension, `[B * T, D]`.
    """

    path: str
    side: Literal["in", "out", "attention", "multihead"] = "out"
    width: str = "model"
    part: Part = WHOLE
    in_place: bool = False
    optional: bool = False
    folded: bool = False


@dataclass(frozen=True)
class Anatomy:
    """Submodules of a block from which `mmxai check` computes sites again.

    norm1, norm2: the norms before attention and MLP (post-norm families: behind the sums). act: the MLP's
    activation. gate: the second factor of a gated MLP. heads: for q and k seen behind a head norm, the
    projection before it, and which part of its output.
    """

    norm1: str
    norm2: str
    act: str
    gate: str = ""
    heads: Mapping[str, tuple[str, Part]] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadOut:
    """How a tower's output comes of its residual stream, linearly but for the norms.

    token: at which token it is read: the "first" (a class token), the "last", or the "end" of text, where
        CLIP pools. matrix: the Linear (or bare parameter `[D, out]`) behind the final norm, relative to the
        tower, with a leading "/" to the loaded object; where the object has none, the output is what the
        norm gives. start_norm: a norm between `embed` and the first block. positions: the first block reads
        the sum of `embed` and positions. logits: the matrix makes logits, which count up to a constant.
    """

    token: Literal["first", "last", "end"]
    matrix: str = ""
    start_norm: str = ""
    positions: bool = False
    logits: bool = False


@dataclass(frozen=True)
class Tower:
    """One stack of blocks of a family.

    roots: paths from the loaded object to the tower, tried in order; `marker` is a submodule that only
        this tower has. blocks: path of the block list. taps are in the order in which they fire.
    dims: (tower's config, whole config) -> sizes. config: name of the tower's own config, if it has one.
    input: our name of the tensor that feeds the tower. method: the method (or submodule) of a larger model
        that runs this tower alone. prefix: token types before the grid (vision). kwargs: passed to every
        forward.
    arguments: for models whose forward names its inputs differently, our name -> theirs; nothing else is
        passed on then.
    fill: every text is padded to the whole context and the model reads its padding like any token (SigLIP):
        our texts come without a mask.
    readout: how an output is made of the stream, where it is by a norm and a matrix.
    logits, project: where it is by more than that, the matrix of logits as in `ReadOut`, and the linear map
        in front of it, relative to the tower (OPT); there may be no such map.
    beside: taps behind the tower that are no part of it: each is a site and a row space of its own name.
    length: rows of a sample to reckon with where the config sets no limit (relative positions).
    """

    name: Literal["vision", "text"]
    roots: tuple[str, ...]
    marker: str
    blocks: str
    dims: Callable[[Any, Any], Dims]
    before: Mapping[str, Tap]
    block: Mapping[str, Tap]
    after: Mapping[str, Tap]
    input: Literal["pixel_values", "input_ids"]
    anatomy: Anatomy
    config: str = ""
    method: str = ""
    prefix: tuple[str, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    readout: ReadOut | None = None
    logits: str = ""
    project: str = ""
    fill: bool = False
    beside: Mapping[str, Tap] = field(default_factory=dict)
    length: int | None = None


@dataclass(frozen=True)
class Family:
    """A model family. Contracts: how a block's sites add up, for the shared tests and `mmxai check`.

    residual: "sequential" (resid_mid = pre + attn, resid_post = mid + mlp), "parallel"
        (resid_post = pre + attn + mlp) or "post-norm" (resid_mid = norm(pre + attn),
        resid_post = norm(mid + mlp)).
    final_norm: ln_final is a norm of the last resid_post and equals transformers' last hidden state.
    splice: how the pictures of a multimodal LLM enter its text; its `text` tower then runs behind `vision`.
    """

    name: str
    towers: tuple[Tower, ...]
    residual: Literal["sequential", "parallel", "post-norm"] = "sequential"
    final_norm: bool = True
    transformer_lens: Mapping[str, str] = field(default_factory=dict)
    splice: Splice | None = None


@dataclass(frozen=True, eq=False)
class Site:
    """A bound site. block: None for sites of the whole tower. width: 0 for patterns, see `BoundTower`."""

    name: str
    tower: str
    block: int | None
    kind: str
    width: int
    space: str
    point: Point


@dataclass(eq=False)
class BoundTower:
    """A tower found in a loaded model. `sites` are in the order in which they fire.

    length: the most rows a sample has (texts: the context length; images: tokens of one image). Wide
        attention patterns depend on it.
    tile: where a sample may have several pictures, tokens of one, among which its attention stays; else 0.
    live: blocks whose output goes on to where the model's output is made; those behind run for nothing.
    longest: of a multimodal LLM's vision tower, the rows of its largest picture.
    """

    spec: Tower
    root: nn.Module
    path: str
    config: Any
    dims: Dims
    length: int
    tile: int = 0
    live: int = 0
    longest: Layout | None = None
    sites: dict[str, Site] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.spec.name

    def width(self, site: Site) -> int:
        return self.dims.heads * self.keys if site.kind == "pattern" else site.width

    @property
    def keys(self) -> int:
        """The most keys that a query reads."""
        return self.tile or self.length


def _length(spec: Tower, config: Any) -> int:
    """The most rows a sample has, as the config says."""
    if spec.length is not None:
        return spec.length
    if spec.input == "input_ids":
        positions = config.max_position_embeddings
        # RoBERTa's positions start behind the padding id.
        offset = (
            config.pad_token_id + 1
            if getattr(config, "model_type", None) in ("roberta", "xlm-roberta", "camembert")
            else 0
        )
        return positions - offset
    (height, width), (ph, pw) = pair(config.image_size), pair(config.patch_size)
    return len(spec.prefix) + (height // ph) * (width // pw)


def bind(module: nn.Module, config: Any, family: Family) -> dict[str, BoundTower]:
    """Find the family's towers in `module`. Raises ModelError where the structure does not match."""
    towers: dict[str, BoundTower] = {}
    for spec in family.towers:
        path = next((r for r in spec.roots if _find(module, _join(r, spec.marker)) is not None), None)
        if path is None:
            continue
        own = getattr(config, spec.config, config) if spec.config else config
        root = original(module.get_submodule(path))
        pictures = family.splice is not None and spec.name == "vision"
        length = 0 if pictures and "pattern" not in spec.block else _length(spec, own)
        tower = BoundTower(spec, root, path, own, spec.dims(own, config), length)
        tower.live = tower.dims.blocks
        if family.splice is not None and pictures:
            tower.longest = family.splice.longest(config)
            tower.tile, tower.length = length, len(tower.longest.vision)
            if family.splice.live is not None:
                tower.live = family.splice.live(config)
        _bind_sites(module, tower, ragged=pictures)
        towers[spec.name] = tower
    if not towers:
        markers = [_join(r, t.marker) for t in family.towers for r in t.roots]
        raise ModelError(
            f"{type(module).__name__}: none of the submodules {markers} of family {family.name} is there; "
            f"for a network of another structure use mmxai.wrap(module)"
        )
    return towers


def _bind_sites(module: nn.Module, tower: BoundTower, ragged: bool) -> None:
    spec, dims, root = tower.spec, tower.dims, tower.root
    blocks = _find(root, spec.blocks)
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or len(blocks) != dims.blocks:
        got = (
            f"{len(blocks)} blocks" if isinstance(blocks, nn.ModuleList | nn.Sequential) else "no block list"
        )
        raise ModelError(
            f"{type(module).__name__}.{_join(tower.path, spec.blocks)}: got {got}, expected "
            f"{dims.blocks} blocks as its config says"
        )

    def add(base: nn.Module, taps: Mapping[str, Tap], block: int | None) -> None:
        for kind, tap in taps.items():
            name = f"{spec.name}.{kind}" if block is None else f"{spec.name}.{block}.{kind}"
            name = kind if taps is spec.beside else name
            paths = tap.path.split("|")
            found = (_find(module, p[1:]) if p.startswith("/") else _find(base, p) for p in paths)
            target = next((m for m in found if m is not None), None)
            if target is not None:
                tower.sites[name] = _site(name, block, kind, tap, target, base, tower, ragged)
            elif not tap.optional:
                raise ModelError(
                    f"{type(module).__name__}: site {name} needs submodule {tap.path!r}, which is not there; "
                    f"for a network of another structure use mmxai.wrap(module)"
                )

    add(root, spec.before, None)
    for index, block in enumerate(blocks):
        add(block, spec.block, index)
    add(root, spec.after, None)
    add(root, spec.beside, None)


def _site(
    name: str,
    block: int | None,
    kind: str,
    tap: Tap,
    module: nn.Module,
    base: nn.Module,
    tower: BoundTower,
    ragged: bool,
) -> Site:
    read: Callable = partial(_read, tap.part, tower.dims)
    write: Callable = partial(_write, tap.part, tower.dims)
    if kind == "pattern":
        read, write = partial(attention.read, tower), attention.write
    space = f"{tower.name}.pooled" if tap.part is POOLED else tower.name
    if kind in tower.spec.beside:
        space = kind
    if ragged:
        read, write = partial(arrange.gather, space, read), partial(arrange.scatter, space, read, write)
    if tap.side == "in" or tap.side == "out":
        point = Point(module, tap.side, read, write, tap.in_place, folded_in=base if tap.folded else None)
    else:
        whole = tap.side == "attention"
        switch = partial(attention.switch, tower.root) if whole else partial(multihead.switch, kind)
        point = Point(module, "switch", read, write, switch=switch)
    width = 0 if kind == "pattern" else getattr(tower.dims, tap.width)
    return Site(name, tower.name, block, kind, width, space, point)


def _read(part: Part, dims: Dims, x: Any) -> Any:
    return part.read(x, dims)


def _write(part: Part, dims: Dims, x: Any, new: Any) -> Any:
    return part.write(x, new, dims)


def _find(module: nn.Module, path: str) -> nn.Module | None:
    module = original(module)  # of what torch.compile made: hooks go on what it was made of
    for name in path.split(".") if path else ():
        child = module._modules.get(name)
        if child is None:
            return None
        module = original(child)
    return module


def _join(*parts: str) -> str:
    return ".".join(p for p in parts if p)
