"""What a score must be held against: SAEs that cannot have learnt what the model knows.

Published work shows such controls scoring close to real SAEs on common measures (random transformers: Heap et
al. 2025, arXiv:2501.17727; frozen random decoders: Korznikov et al. 2026), so `evaluate` makes them unless
told not to.

| name | what it is |
| --- | --- |
| `pca` | principal components of the same rows, as many active a row as the SAE has |
| `frozen` | the same training with a random decoder that never changes |
| `seed` | the same training from another seed: what of the dictionary is found again |
| `untrained` | the same training on activations of the model with random weights |
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError, SAEFormatError
from mmxai.kernels.crc32c import crc32c
from mmxai.methods.sae import checkpoint, files
from mmxai.methods.sae.config import TrainConfig
from mmxai.methods.sae.model import SAE, load_sae
from mmxai.methods.sae.pca import pca_sae
from mmxai.methods.sae.rows import trained_config, training_rows
from mmxai.methods.sae.train import train_sae

if TYPE_CHECKING:
    from mmxai.models.model import Model
    from mmxai.store.reader import Store

NULLS = ("pca", "frozen", "seed", "untrained")

Trainer = Callable[["Store", TrainConfig], SAE]
"""Trains one SAE on a store: `train_sae`, or a shorter way in tests."""

RECIPE = "recipe.json"
"""What a null that is kept was made of."""

_PCA_ROWS = 1 << 17


def config_of(sae: SAE, rows: int | None = None, l0: float | None = None) -> TrainConfig:
    """The options that this SAE was trained with, for `rows` rows (default: as many as it saw).

    Of an SAE that another library trained, which does not say, its architecture's usual ones; `rows` is then
    needed. ArgumentError where it is not given. l0: what a jumprelu is then trained to have.
    """
    spec = sae.spec
    known: Mapping[str, Any] = spec.identity.get("train", {})
    options = dict(trained_config(spec))
    if not options:
        if (reason := untrainable(sae, rows)) is not None:
            raise ArgumentError(f"nulls: got an SAE of another library's, {reason}")
        options = {"arch": spec.arch, "latents": spec.latents, "k": spec.k, "prefixes": spec.prefixes}
        options |= {"target_l0": l0} if l0 else {}
    options |= {
        "sites": spec.sites_in,
        "sites_out": spec.sites_out if spec.kind == "transcoder" else (),
        "crosscoder": max(len(spec.sites_in), len(spec.sites_out)) > 1,
        "skip": spec.skip,
        "device": str(sae.device),
        "rows": rows or known.get("rows"),
    }
    fields = {f.name for f in dataclasses.fields(TrainConfig)}
    if unknown := sorted(set(options) - fields):
        raise SAEFormatError(
            f"nulls: got an SAE trained with options {unknown}, which this version does not know; evaluate "
            "it with the version that trained it, or with nulls=()"
        )
    return TrainConfig(**options)


def make_null(
    name: str,
    sae: SAE,
    store: Store,
    *,
    l0: float,
    rows: int | None = None,
    train: Trainer | None = None,
    untrained: Store | None = None,
    folder: Path | None = None,
) -> SAE:
    """The SAE that null `name` is (see this module's table).

    l0: of the SAE, which the PCA keeps to. untrained: a store of the same sites and data, harvested with
    `rerandomised`. folder: where nulls are kept, so that a second evaluation finds them; one made for
    another SAE or other rows is made anew. CheckpointError where another process is making it.
    """
    if name not in NULLS:
        raise ArgumentError(f"nulls: got {name!r}, expected some of {NULLS}")
    source = untrained if name == "untrained" else store
    if source is None:
        raise ArgumentError("nulls: got no store of the untrained model, expected one, see `rerandomised`")
    recipe: dict[str, Any] = {"null": name, "of": fingerprint(sae), "data": source.view.identity}
    k = max(1, round(l0))
    if name == "pca":
        recipe["k"] = k
    else:
        # Not of l0, which moves with the rows measured, nor of the device: training takes hours.
        recipe["train"] = {k: v for k, v in config_of(sae, rows).to_json().items() if k != "device"}

    def made(run: Path | None) -> SAE:
        if name == "pca":
            return pca_sae(sae.spec, k, training_rows(sae.spec, source, _PCA_ROWS))
        return _trained(name, source, config_of(sae, rows, l0), train, run)

    if folder is None:
        return made(None)
    home = folder / name
    run = home / f"run-{crc32c(json.dumps(recipe, sort_keys=True).encode()):08x}"
    if (found := _kept(home, recipe)) is not None:
        return found
    with checkpoint.held(home / files.WEIGHTS):
        if (found := _kept(home, recipe)) is not None:  # made while this process came here
            return found
        found = made(run)
        # First of all the old recipe goes: no crash may leave it beside new weights.
        (home / RECIPE).unlink(missing_ok=True)
        found.save(home)
        staged = home / f"{RECIPE}.tmp"
        staged.write_text(json.dumps(recipe) + "\n")
        files.replace(staged, home / RECIPE)
        if run.exists():
            shutil.rmtree(run)
    return found


def _kept(home: Path, recipe: Mapping[str, Any]) -> SAE | None:
    """The null in `home` if it is of this recipe, also once it is read: another process may replace it."""
    if _recipe(home) != recipe:
        return None
    found = load_sae(home)
    return found if _recipe(home) == recipe else None


def _recipe(home: Path) -> Any:
    """None where there is none that can be read."""
    try:
        return json.loads((home / RECIPE).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _trained(name: str, store: Store, config: TrainConfig, train: Trainer | None, run: Path | None) -> SAE:
    """run: where the training is kept until the null is saved, another for another recipe."""
    if name == "frozen":
        config = dataclasses.replace(config, frozen="decoder")
    elif name == "seed":
        config = dataclasses.replace(config, seed=config.seed + 1)
    if train is not None:
        return train(store, config)
    # part_of: all of it is this worker's, whatever array of jobs it may be in.
    return train_sae(store, config, out=run, part_of="0/1")[0]


def untrainable(sae: SAE, rows: int | None) -> str | None:
    """Why no null can be trained as this SAE was, or None."""
    if rows is None and not trained_config(sae.spec):
        return "which does not say how it was trained; give null_rows, how many rows to train nulls on"
    return None


def fingerprint(sae: SAE) -> str:
    """A checksum of the weights and of what decides how they are used, hexadecimal."""
    spec = {k: v for k, v in sae.spec.to_json().items() if k not in ("identity", "notes")}
    value = crc32c(json.dumps(spec, sort_keys=True).encode())
    for tensor in sae.tensors().values():
        value = crc32c(tensor.detach().cpu().contiguous().view(torch.uint8).numpy(), value)
    return f"{value:08x}"


@contextmanager
def rerandomised(model: Model, seed: int = 0) -> Iterator[Model]:
    """The model with random weights, for as long as the block lasts: its own come back whatever happens.

    Every parameter of two or more dimensions is drawn anew from a normal distribution of its own mean and
    spread (Heap et al. 2025, "re-randomised"), so that the scale of activations stays; biases and norms'
    gains stay, too. Its identity differs meanwhile, so a harvest never mixes the two.
    """
    generator = torch.Generator().manual_seed(seed)
    kept: dict[str, torch.Tensor] = {}
    identity = model.__dict__.pop("identity", None)
    try:
        with torch.no_grad():
            for name, parameter in model.module.named_parameters():
                if parameter.ndim < 2 or not parameter.is_floating_point():
                    continue
                kept[name] = parameter.detach().clone()
                drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
                wide = parameter.detach().float()
                parameter.copy_(drawn * wide.std(correction=0) + wide.mean())
        yield model
    finally:
        with torch.no_grad():
            for name, parameter in model.module.named_parameters():
                if name in kept:
                    parameter.copy_(kept[name])
        model.__dict__.pop("identity", None)
        if identity is not None:
            model.__dict__["identity"] = identity
