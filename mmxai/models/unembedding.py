"""The end of a tower, for any row of its stream: final norm, then a matrix whose rows have names.

Of a language model it makes logits over the vocabulary; of a tower of CLIP, whose output is compared with
embedded texts, logits over a bank of texts:

    logits = cap(scale * unit(P norm(x)) W' + b)

with P of CLIP and of OPT's `project_out`, the scaling to length 1 of CLIP alone, cap(y) = softcap *
tanh(y / softcap) of Gemma 2 alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmxai.errors import ArgumentError, ModelError
from mmxai.models.linear import Norm, matrix_of, norm_of
from mmxai.models.near_texts import embed_texts

if TYPE_CHECKING:
    from mmxai.models.adapter import BoundTower
    from mmxai.models.model import Model

_FILE, _WEIGHTS, _VERSION = "unembedding.json", "unembedding.safetensors", 1


@dataclass(frozen=True, eq=False)
class Unembedding:
    """What stands behind the last block of `tower`.

    weight: `[V, D']`, in the model's dtype (of a bank of texts float32); bias `[V]`. project: float `[D', D]`
    behind the norm. unit: projected rows are scaled to length 1 (CLIP). names: what number v is called.
    blocks: of the tower, where it is known.
    """

    model: str
    tower: str
    width: int
    weight: torch.Tensor
    names: Callable[[int], str]
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    final: nn.Module | Norm | None = None
    project: torch.Tensor | None = None
    unit: bool = False
    bank: tuple[str, ...] | None = field(default=None, repr=False)
    blocks: int | None = None

    @property
    def size(self) -> int:
        return self.weight.shape[0]

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def norm(self, x: torch.Tensor, kind: str = "resid_post") -> torch.Tensor:
        """Rows `[N, D]` of the stream as the matrix reads them, `[N, D']` in its dtype; differentiable.

        kind: of the site they come from. `ln_final` has been normed, `embeds` also projected: neither is done
        to a row twice.
        """
        x = x.to(self.device)
        if kind not in ("ln_final", "embeds"):
            x = self._normed(x)
        if kind != "embeds" and self.project is not None:
            x = x.to(self.project.dtype) @ self.project.T
        if self.unit:
            x = nn.functional.normalize(x.float(), dim=-1)
        return x.to(self.weight.dtype)

    def logits(self, x: torch.Tensor, kind: str = "resid_post") -> torch.Tensor:
        """float32 `[N, V]`, written out: what `mmxai.kernels.unembed_topk` is tested against."""
        return self.tile(self.norm(x, kind), slice(None))

    def tile(self, normed: torch.Tensor, tokens: slice) -> torch.Tensor:
        """float32 logits `[N, v]` of some tokens, of rows that `norm` made."""
        y = self.scale * (normed.float() @ self.weight[tokens].float().T)
        y = y if self.bias is None else y + self.bias[tokens].float()
        return y if self.softcap is None else torch.tanh(y / self.softcap) * self.softcap

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        if self.final is None:
            return x
        if isinstance(self.final, Norm):
            x = x.float()
            return self.final.forward(x, self.final.scale(x))
        like = next(iter(self.final.parameters()), None)
        return self.final((x if like is None else x.to(like.dtype))[None])[0]

    def save(self, folder: str | Path) -> Path:
        """Write what reads stored states without the model: weights as safetensors, names as JSON."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        norm = self.final
        if isinstance(norm, nn.Module):
            norm = norm_of(norm, self.width, f"{self.tower}.ln_final")
        tensors = {"weight": self.weight, "bias": self.bias, "project": self.project}
        tensors |= {} if norm is None else {"norm.gain": norm.gain, "norm.bias": norm.bias}
        kept = {k: v.detach().cpu().contiguous() for k, v in tensors.items() if v is not None}
        save_file(kept, folder / _WEIGHTS)
        said = {
            "version": _VERSION, "model": self.model, "tower": self.tower, "width": self.width,
            "scale": self.scale, "softcap": self.softcap, "unit": self.unit, "bank": self.bank is not None,
            "norm": None if norm is None else {"centred": norm.centred, "eps": norm.eps},
            "names": [self.names(i) for i in range(self.size)], "blocks": self.blocks,
        }  # fmt: skip
        (folder / _FILE).write_text(json.dumps(said, ensure_ascii=False) + "\n", encoding="utf-8")
        return folder


def load_unembedding(folder: str | Path, *, device: torch.device | str | None = None) -> Unembedding:
    """What `Unembedding.save` wrote. Raises ModelError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / _FILE).is_file():
        raise ModelError(f"{folder}: got no {_FILE}, expected a folder that `Unembedding.save` wrote")
    try:
        said = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        if said["version"] != _VERSION:
            raise ModelError(
                f"{folder}: got an unembedding of version {said['version']}, expected {_VERSION}"
            )
        tensors = load_file(folder / _WEIGHTS, device=str(device or "cpu"))
        norm = said["norm"]
        if norm is not None:
            norm = Norm(tensors["norm.gain"], tensors.get("norm.bias"), norm["centred"], norm["eps"])
        names = list(said["names"])
        return Unembedding(
            said["model"], said["tower"], said["width"], tensors["weight"], names.__getitem__,
            tensors.get("bias"), said["scale"], said["softcap"], norm, tensors.get("project"), said["unit"],
            tuple(names) if said["bank"] else None, said["blocks"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: is damaged ({error!r}), expected what `Unembedding.save` wrote"
        ) from error


def is_unembedding(folder: str | Path) -> bool:
    return (Path(folder) / _FILE).is_file()


def unembedding(
    model: Model, tower: str | None = None, texts: Sequence[str] | torch.Tensor | None = None
) -> Unembedding:
    """The unembedding of a tower; by default of the text tower, or of pictures where `texts` are given.

    texts: of a tower of CLIP the bank: texts, or their embeddings `[V, J]`. ArgumentError where the tower's
    output is neither logits nor compared with texts, ModelError where a module is not linear.
    """
    if tower is None:
        names = list(model.towers)
        first = ("vision", "text") if texts is not None else ("text", "vision")
        tower = next((t for t in first if t in names), "")
    bound = model.towers.get("text" if tower == "lm" else tower)
    if bound is None:
        raise ArgumentError(
            f"lens: got tower {tower!r} of {model.name}, expected one of {list(model.towers)}"
        )
    readout = bound.spec.readout
    if bound.spec.logits or (readout is not None and readout.logits):
        if texts is not None:
            raise ArgumentError(
                f"lens: got texts for {model.name}, whose {bound.name} tower makes logits over its own "
                "vocabulary, expected none; texts are the bank of a CLIP"
            )
        return _of_logits(model, bound)
    if readout is None or f"{bound.name}.embeds" not in bound.sites:
        raise ArgumentError(
            f"lens: {model.name}'s {bound.name} tower ends in no logits over a vocabulary and in no space "
            "shared with texts, expected a language model, or a CLIP with its projections"
        )
    if texts is None or not len(texts):
        raise ArgumentError(
            f"lens: got no texts for {model.name}, expected the bank that its {bound.name} tower is "
            "compared with"
        )
    return _of_texts(model, bound, texts)


def _of_logits(model: Model, tower: BoundTower) -> Unembedding:
    readout = tower.spec.readout
    path = tower.spec.logits or ("" if readout is None else readout.matrix)
    try:
        base = model.module if path.startswith("/") else model.module.get_submodule(tower.path)
        head = base.get_submodule(path.removeprefix("/"))
    except AttributeError as error:
        raise ArgumentError(
            f"lens: got {type(model.module).__name__}, which has no {path.removeprefix('/')}, expected a "
            "model with its language-model head (…ForCausalLM)"
        ) from error
    matrix, _ = matrix_of(head, f"{tower.name}: {path.removeprefix('/')}")
    between = model.module.get_submodule(tower.path)._modules.get(tower.spec.project)
    weight: Any = head.weight
    bias: Any = getattr(head, "bias", None)
    if weight.shape != matrix.shape:
        weight = matrix
    return Unembedding(
        model=model.name,
        tower=tower.name,
        width=tower.dims.model,
        weight=weight.detach(),
        names=_token_names(model, tower.name),
        bias=None if bias is None else bias.detach(),
        softcap=getattr(tower.config, "final_logit_softcapping", None),
        final=_final(tower),
        project=None if between is None else matrix_of(between, f"{tower.name}: {tower.spec.project}")[0],
        blocks=tower.dims.blocks,
    )


def _of_texts(model: Model, tower: BoundTower, texts: Sequence[str] | torch.Tensor) -> Unembedding:
    known = [f"text {i}" for i in range(len(texts))] if isinstance(texts, torch.Tensor) else list(texts)
    embedded = texts if isinstance(texts, torch.Tensor) else embed_texts(model, known)
    projection, _ = matrix_of(tower.sites[f"{tower.name}.embeds"].point.module, f"{tower.name}.embeds")
    scale: Any = getattr(model.module, "logit_scale", None)
    return Unembedding(
        model=model.name,
        tower=tower.name,
        width=tower.dims.model,
        weight=nn.functional.normalize(embedded.float(), dim=1).to(model.device),
        names=known.__getitem__,
        scale=1.0 if scale is None else float(scale.detach().exp()),
        final=_final(tower),
        project=projection,
        unit=True,
        bank=tuple(known),
        blocks=tower.dims.blocks,
    )


def _final(tower: BoundTower) -> nn.Module | None:
    site = tower.sites.get(f"{tower.name}.ln_final")
    return None if site is None or isinstance(site.point.module, nn.Identity) else site.point.module


def _token_names(model: Model, tower: str) -> Callable[[int], str]:
    """A token as text, with the space in front that sentencepiece's decoding drops; its number without a
    tokenizer."""
    pipeline = model.feeds.texts(tower)
    if pipeline is None:
        return lambda token: f"#{token}"

    def name(token: int) -> str:
        text = pipeline.decode([token])
        piece = pipeline.tokenizer.convert_ids_to_tokens(token)
        spaced = isinstance(piece, str) and piece.startswith("\N{LOWER ONE EIGHTH BLOCK}")
        if text == "" or "\N{REPLACEMENT CHARACTER}" in text:
            return piece or f"#{token}"
        return f" {text}" if spaced and not text.startswith(" ") else text

    return name
