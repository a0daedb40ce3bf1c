"""`Model`: a network with named sites. Everything that touches activations goes through `Model.run`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmxai.capture.hooks import Edit, Point, Reader, Request, gradients, run_hooked
from mmxai.errors import ArgumentError, RowSpaceError, UnknownSiteError
from mmxai.models import arrange, modules, names
from mmxai.models.adapter import BoundTower, Family
from mmxai.models.feeds import Feeds
from mmxai.models.generate import Generated, continued, generate
from mmxai.models.identity import identity_of
from mmxai.models.inputs import Inputs
from mmxai.models.intervene import intervene
from mmxai.models.texts import Bos, Long, TextPipeline
from mmxai.types import ROW_COLUMNS, TOKEN_CODES, Batch, Rows

if TYPE_CHECKING:
    from mmxai.data.sample import Sample
    from mmxai.models.inputs import Encoded
    from mmxai.models.splice import Splice


@dataclass
class Run:
    """What a run brought back.

    out: what the model's forward returned (None when it was stopped early). acts: site -> `[B, T, D]` (one
    row a sample: `[B, 1, D]`), after edits. grads: site -> d metric / d site, same shape. value: the metric.
    rows: row space -> int32 `[B, T, 8]` (`mmxai.types.ROW_COLUMNS`), padding marked.
    """

    out: Any
    acts: dict[str, torch.Tensor]
    grads: dict[str, torch.Tensor] = field(default_factory=dict)
    value: torch.Tensor | None = None
    rows: dict[str, torch.Tensor] = field(default_factory=dict)


class Model:
    """A network with named sites; made by `load_model` and `wrap`.

    name: the hub id, the folder's name, or what `wrap` was told. family: the adapter's name ("module" for
    wrapped networks). module: the network itself, put into eval mode.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        family: Family | None,
        towers: Mapping[str, BoundTower],
        feeds: Feeds,
        config: Any = None,
    ):
        self.module = module.eval()
        self.name, self.config = name, config
        self.adapter, self.towers, self.feeds = family, dict(towers), feeds
        self._sites = {name: site for tower in self.towers.values() for name, site in tower.sites.items()}
        self._modules: dict[str, modules.ModuleSite] = {}
        self._outputs: dict[str, modules.Output] | None = None

    @property
    def family(self) -> str:
        return self.adapter.name if self.adapter else "module"

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """JSON for the plan: name, family, class, dtype, hash of the config, fingerprint of the weights.

        Computed once; weights changed afterwards keep it.
        """
        return identity_of(self.module, self.config, self.name, self.family, self.dtype)

    def __repr__(self) -> str:
        towers = ", ".join(
            f"{t.name}: {t.dims.blocks} blocks of {t.dims.model}" for t in self.towers.values()
        )
        what = towers or type(self.module).__name__
        return f"Model({self.name!r}, {self.family}, {what}, {self.device}, {self.dtype})"

    # Sites

    def sites(self) -> dict[str, int]:
        """Site name -> width, in the order in which they fire. Of a wrapped network: every usable module."""
        if self.towers:
            return {name: self.towers[s.tower].width(s) for name, s in self._sites.items()}
        return {site.name: site.width for site in self._usable_modules()}

    def resolve(self, patterns: str | Iterable[str]) -> list[str]:
        """Names, globs, block ranges (`3-7`, `{0,4}`, `-1`), TransformerLens names, module paths -> sites.

        In model order, each once. Raises UnknownSiteError, naming the nearest.
        """
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        if all(p in self._sites for p in patterns):
            chosen = set(patterns)
            return [s for s in self._sites if s in chosen]
        known = dict.fromkeys(self._sites, 0)
        paths = [name for name, _ in self.module.named_modules() if name]
        lens = self.adapter.transformer_lens if self.adapter else {}
        blocks = {t.name: t.dims.blocks for t in self.towers.values()}
        return names.resolve(patterns, known, blocks, paths, lens)

    def space_of(self, site: str) -> str:
        """The row space of a site: a tower, `<tower>.pooled` (one row a sample) or `module.<shape>`."""
        if site in self._sites:
            return self._sites[site].space
        return self._module_site(site).space

    def width_of(self, site: str) -> int:
        if site in self._sites:
            return self.towers[self._sites[site].tower].width(self._sites[site])
        return self._module_site(site).width

    def tower_of(self, site: str) -> str | None:
        """The tower in which a site fires; None of `module:` sites."""
        return self._sites[site].tower if site in self._sites else None

    def live(self, site: str) -> bool:
        """Whether the model's output can depend on a site: of a multimodal LLM, not on vision blocks behind
        the one whose states it reads. For inputs of both towers.
        """
        found = self._sites.get(site)
        if found is None or self._splice is None or found.tower != "vision" or found.space == "projector":
            return True
        tower = self.towers["vision"]
        if found.block is None:
            return found.kind == "embed" or (found.kind == "ln_final" and self._splice.live is None)
        return found.block < tower.live

    def heads_of(self, site: str) -> int | None:
        """Of `q k v z` and patterns: how many heads lie side by side in a row; None of other sites."""
        if site not in self._sites or self._sites[site].kind not in ("q", "k", "v", "z", "pattern"):
            return None
        dims = self.towers[self._sites[site].tower].dims
        return dims.kv_heads if self._sites[site].kind in ("k", "v") else dims.heads

    def rows_per_sample(self, space: str) -> int:
        """The most rows a sample can have in a row space."""
        longest = self.towers["vision"].longest if "vision" in self.towers else None
        if longest is not None and space in _OF_PICTURES:
            return len(longest.pooled if space == "vision.pooled" else longest.projector)
        return self.towers[space].length if space in self.towers else modules.length_of(space)

    def token_types(self, space: str) -> set[str]:
        """Which token types the rows of a space can have (padding aside); empty for pooled rows."""
        tower = self.towers.get(space)
        if self._splice is not None and space in ("text", "projector"):
            return {"image", "text", "special"} if space == "text" else {"image"}
        if tower is None:
            return {"patch"} if "x" in space.rpartition(".")[2] else set()
        return {"text", "special"} if tower.spec.input == "input_ids" else {"patch", *tower.spec.prefix}

    # Inputs

    def modality(self, tower: str) -> str:
        """What a tower reads: "image" or "text"."""
        return "text" if self.towers[tower].spec.input == "input_ids" else "image"

    def inputs_identity(self) -> dict[str, Any]:
        """JSON of the pipelines that feed the towers: all that decides pixels and tokens."""
        return self.feeds.identity()

    @property
    def pictures_in_text(self) -> bool:
        """Whether the text tower's sequence has pictures in it: it then needs what the vision tower reads."""
        return self._splice is not None

    @property
    def _splice(self) -> Splice | None:
        return self.adapter.splice if self.adapter else None

    def set_length(self, tower: str, length: int) -> None:
        """Say how many tokens a text has at most: the context length to work with."""
        self.set_texts(tower, context=length)

    def text_settings(self, tower: str) -> dict[str, Any]:
        """How texts are fed now: the arguments of `set_texts`."""
        pipeline = self.feeds.texts(tower)
        settings: dict[str, Any] = {"context": self.towers[tower].length}
        return settings if pipeline is None else {**settings, "bos": pipeline.bos, "long": pipeline.long}

    def set_texts(
        self, tower: str, *, context: int | None = None, bos: Bos | None = None, long: Long | None = None
    ) -> TextPipeline | None:
        """Choose how texts are fed (see `TextPipeline`); None leaves a setting as it was.

        Returns the pipeline that will be used, None for a model without a tokenizer.
        """
        if (
            tower not in self.towers
            or self.modality(tower) != "text"
            or (context is not None and context < 1)
        ):
            raise ArgumentError(
                f"set_texts: got {tower!r} and context {context}, expected a text tower of this model and a "
                f"positive number of tokens"
            )
        context = context or self.towers[tower].length
        pipeline = self.feeds.set_texts(tower, context, bos, long)
        self.towers[tower].length = context
        return pipeline

    def encode(self, sample: Sample, towers: Sequence[str] | None = None) -> Encoded:
        """One sample through the pipelines of the towers named (default: those it has content for)."""
        return self.feeds.encode(sample, towers)

    def collate(self, batch: Sequence[Encoded]) -> Inputs:
        """Encoded samples -> a batch with every known row space."""
        return self._complete(self.feeds.collate(batch))

    def prepare(self, inputs: Any) -> Inputs:
        """Pictures, strings, `dict(image=, text=)`, samples, a tensor or a dict of tensors -> `Inputs`."""
        if isinstance(inputs, Inputs):
            return self._complete(inputs)
        return self._complete(self.feeds.prepare(inputs))

    def _complete(self, inputs: Inputs) -> Inputs:
        """Add row tables of the pooled spaces, and of the `module:` spaces in use."""
        samples = next((rows[:, 0, 0] for rows in inputs.rows.values()), None)
        known = {f"{tower}.pooled" for tower in inputs.rows if tower in self.towers}
        known |= {s.space for s in self._modules.values() if s.space not in self.towers}
        for space in known - set(inputs.rows):
            inputs.rows[space] = modules.rows_of(space, inputs.batch_size, samples)
        return inputs

    # Running

    def run(
        self,
        inputs: Any,
        capture: str | Iterable[str] = (),
        edit: Mapping[str, Edit | Sequence[Edit]] | None = None,
        grad: Callable[[Any], torch.Tensor] | bool | None = None,
        stop: bool = False,
        read: Mapping[str, Reader] | None = None,
    ) -> Run:
        """Run the model once: read, edit and differentiate sites.

        capture: sites to bring back. edit: site (or glob) -> function or functions, `[B, T, D] -> [B, T, D]`;
        what is captured and read is the edited value, and a result of another dtype is cast back. grad: a
        metric, called on the model's output, whose gradients at the captured sites are brought back (zeros
        where it does not depend on one); True keeps the autograd graph instead, for your own backward. stop:
        end the forward after the last site asked for (`out` is None). read: site -> function that gets
        the native tensor while the model runs; nothing is kept.

        Raises UnknownSiteError, SiteNotFiredError, CompiledModelError, ArgumentError.
        """
        inputs = self.prepare(inputs)
        edits = self.edits_of(edit or {})
        readers = self.edits_of(read or {})
        captured = self.resolve(capture) if capture else []
        chosen = {*captured, *edits, *readers}
        ordered = self.resolve(chosen) if chosen else []
        self._check(ordered, captured, readers, edits, grad, stop, inputs)
        requests = [
            Request(
                site,
                self.point_of(site),
                capture=site in captured,
                readers=readers.get(site, ()),
                edits=edits.get(site, ()),
                grad=bool(grad) and site in captured,
            )
            for site in ordered
        ]
        inputs = self._complete(inputs)
        moved = inputs.to(self.device, self.dtype)
        only = {self._sites[s].tower for s in ordered if s in self._sites} if stop else set()
        if any(s not in self._sites for s in ordered):
            only = set()
        differentiate = torch.enable_grad() if grad else torch.no_grad()
        with torch.inference_mode(False) if grad else nullcontext(), differentiate:
            with self.arranged(inputs):
                out = run_hooked(self.module, requests, lambda: self.forward(moved.tensors, only), stop=stop)
            result = Run(None if stop else out, {}, rows=inputs.rows)
            if callable(grad):
                result.value = grad(out)
                result.grads = dict(gradients(result.value, requests))
                result.value = result.value.detach()
        for request in requests:
            if request.value is not None:
                result.acts[request.site] = request.value if grad is True else request.value.detach()
        return result

    def capture(self, inputs: Any, sites: str | Iterable[str], *, generate: int = 0) -> tuple[Any, Batch]:
        """Activations of one batch as rows `[N, D]`, padding dropped; all sites in one row space.

        generate: let the model go on greedily for so many tokens first, whose rows then follow each text's.
        """
        if generate:
            inputs, _ = self.continued(inputs, generate)
        sites = self.resolve(sites)
        spaces = {self.space_of(s) for s in sites}
        if len(spaces) != 1:
            raise RowSpaceError(
                f"capture: got sites of row spaces {sorted(spaces)}, expected one; capture them one space "
                f"at a time, or use model.run"
            )
        run = self.run(inputs, capture=sites)
        space = spaces.pop()
        rows = run.rows[space]
        keep = rows[..., ROW_COLUMNS.index("token_type")] != TOKEN_CODES["pad"]
        acts = {site: run.acts[site][keep.to(run.acts[site].device)] for site in sites}
        return run.out, Batch(acts, Rows(rows[keep]), space=space)

    def intervene(
        self, edits: Mapping[str, Edit | Sequence[Edit]]
    ) -> AbstractContextManager[Mapping[str, Request]]:
        """A block in which every forward of the model is edited, each token of a generation included.

        edits: as in `run`, whose own edits come behind these; blocks nest, the inner one's come last. They
        see the rows at hand: a prompt's, then one a step. Always detaches. Yields site -> `Request`, whose
        `fired` counts forwards. Raises SiteNotFiredError at the end if an edit never ran. Other threads that
        run the model wait meanwhile.
        """
        return intervene(self, edits)

    def generate(self, prompts: Any, **options: Any) -> Generated:
        """Continue texts: prompts as `prepare` takes them; options are those of transformers' `generate`.

        By default greedy, 32 new tokens; a multimodal LLM says no placeholder of pictures. Raises
        ModelError of a model that generates no text.
        """
        return generate(self, prompts, options)

    def continued(self, inputs: Any, steps: int) -> tuple[Inputs, Generated]:
        """Inputs with the tokens behind each text that the model says next, greedily, `steps` at most.

        Their rows are of type `generated`, column `step` counting from 0; a text that ends earlier has fewer,
        and none for the end token. One forward of them gives what the model computed while it generated.
        """
        if steps < 1:
            raise ArgumentError(f"generate: got {steps} tokens, expected at least 1")
        return continued(self, self.prepare(inputs), steps)

    def forward(
        self, tensors: Mapping[str, Any], only: AbstractSet[str] = frozenset(), **options: Any
    ) -> Any:
        """The plain forward without hooks, of the towers that `tensors` feed (of those in `only`, if any)."""
        if not self.towers:
            return self.feeds.call(self.module, tensors)
        if self._splice is not None and not arrange.known():
            with arrange.arranged(self.feeds.lengths(tensors)):
                return self.forward(tensors, only, **options)
        only = set() if self._splice is not None and "text" in only else only  # its sequence has the pictures
        active = [
            t for t in self.towers.values() if t.spec.input in tensors and t.name in (only or self.towers)
        ]
        kwargs = {k: v for k, v in tensors.items() if _belongs(k, [t.spec.input for t in active])}
        theirs = {ours: name for t in active for ours, name in t.spec.arguments.items()}
        if theirs:
            kwargs = {theirs[k]: v for k, v in kwargs.items() if k in theirs}
        for tower in active:
            kwargs.update(tower.spec.kwargs)
        kwargs.update(options)
        alone = active[0].spec.method if len(active) == 1 else ""
        if alone and (len(self.towers) > 1 or hasattr(self.module, alone)):
            return getattr(self.module, alone)(**kwargs)
        return self.module(**kwargs)

    def arranged(self, inputs: Inputs) -> AbstractContextManager[None]:
        """A block whose forwards are of these inputs: whose pictures are whose, in a multimodal LLM."""
        if self._splice is None:
            return nullcontext()
        return arrange.arranged(arrange.lengths_of(inputs.rows))

    def _check(
        self,
        ordered: Sequence[str],
        captured: Sequence[str],
        readers: Mapping[str, Any],
        edits: Mapping[str, Any],
        grad: Any,
        stop: bool,
        inputs: Inputs,
    ) -> None:
        for site in ordered:
            tower = self.towers.get(self._sites[site].tower) if site in self._sites else None
            if tower is not None and tower.spec.input not in inputs.tensors:
                raise ArgumentError(
                    f"site {site} needs {tower.spec.input}, got inputs with {sorted(inputs.tensors)}; "
                    f"give the model what its {tower.name} tower reads"
                )
        if grad and not captured:
            raise ArgumentError("grad: got no captured sites, expected at least one in capture=")
        if stop:
            last = max((i for i, s in enumerate(ordered) if s in captured or s in readers), default=-1)
            late = [s for s in ordered[last + 1 :] if s in edits]
            if grad or last < 0 or late:
                why = "grad needs the output" if grad else "no sites"
                why = f"edits after the last site: {late}" if late and not grad else why
                raise ArgumentError(
                    f"stop=True: {why}, expected only reads after which nothing matters; use stop=False"
                )

    def edits_of(self, functions: Mapping[str, Any]) -> dict[str, list[Callable]]:
        """Site or glob -> function or functions, as exact site -> list; those of one site in order."""
        out: dict[str, list[Callable]] = {}
        for pattern, given in functions.items():
            for site in self.resolve(pattern):
                out.setdefault(site, []).extend([given] if callable(given) else given)
        return out

    def point_of(self, site: str) -> Point:
        """Where a site passes."""
        return self._sites[site].point if site in self._sites else self._module_site(site).point

    # module: sites

    def _module_site(self, site: str) -> modules.ModuleSite:
        if site not in self._modules:
            if not site.startswith(names.MODULE):
                raise UnknownSiteError(
                    f"no site {site!r} in this model; model.resolve understands globs and ranges"
                )
            path = site.removeprefix(names.MODULE)
            self.resolve(site)
            self._modules[site] = modules.module_site(self.module, path, *self._example())
        return self._modules[site]

    def _usable_modules(self) -> list[modules.ModuleSite]:
        outputs, batch, _towers = self._example()
        usable = [p for p, o in outputs.items() if modules.usable(o, batch)]
        return [self._module_site(names.MODULE + path) for path in usable]

    def _example(self) -> tuple[dict[str, modules.Output], int, dict[str, tuple[str, int]]]:
        example = self.feeds.example()
        moved = example.to(self.device, self.dtype)
        if self._outputs is None:
            self._outputs = modules.discover(self.module, lambda: self.forward(moved.tensors, set()))
        towers = {t.name: (t.path, example.rows[t.name].shape[1]) for t in self.towers.values()}
        return self._outputs, example.batch_size, towers


_TEXT_ONLY = {"input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"}
_OF_PICTURES = ("vision.pooled", "projector")


def _belongs(argument: str, inputs: Sequence[str]) -> bool:
    return "input_ids" in inputs if argument in _TEXT_ONLY else "pixel_values" in inputs
