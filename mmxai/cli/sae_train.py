"""Train SAEs, transcoders or crosscoders on the sites of a store, or live on a model's.

The same command goes on with a run that was stopped, to the same figures. Writes OUT/<site>/ with sae.json,
sae.safetensors and metrics.jsonl.

examples:
  mmxai sae train acts.zarr --sites 'vision.*.resid_post' --tokens patch
  mmxai sae train acts.zarr --sites vision.5.mlp_post --sweep k=16,32,64 latents=4096,8192
  mmxai sae train acts.zarr --sites 'vision.*.resid_mid' --sites-out 'vision.*.mlp_out' --skip
  mmxai sae train --live clip/ pictures/ --sites vision.5.resid_post --rows 50000000
  sbatch --array=0-11 --wrap "mmxai sae train acts.zarr --sites 'vision.*.resid_post'"
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from mmxai.cli import OK
from mmxai.methods.sae.config import TrainConfig


@dataclass
class Config:
    store: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[STORE]")] = None
    """Path of the store; or give --live."""
    train: TrainConfig = field(default_factory=TrainConfig)
    out: str = "sae"
    """Folder of the run."""
    sweep: tuple[str, ...] = ()
    """NAME=VALUE,VALUE,...: an SAE for every combination, all trained on the same batches."""
    part_of: str | None = None
    """This worker's share of the sites, 'i/n' (0 <= i < n). Default: RANK and WORLD_SIZE, or
    SLURM_ARRAY_TASK_ID."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go beside metrics.jsonl."""
    live: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="MODEL DATA")] = None
    """Capture from MODEL over DATA while training, and keep no store."""
    buffer: int = 1 << 18
    """--live: rows held of each site, to shuffle."""
    live_batch: int = 32
    """--live: samples a forward pass."""
    context: int | None = None
    """--live: cut texts to so many tokens."""
    threads: int | None = None
    """CPU threads; the same number gives the same digits."""


def run(config: Config) -> int:
    import torch

    from mmxai.errors import ArgumentError
    from mmxai.methods.sae.config import sweep
    from mmxai.methods.sae.train import train_each

    if (config.store is None) == (config.live is None):
        raise ArgumentError("sae train: got a store and --live, or neither, expected one of them")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    configs = sweep(config.train, config.sweep)
    source: Any = config.store
    if config.live is not None:
        from mmxai.methods.sae.live import LiveOrigin
        from mmxai.models import load_model

        model = load_model(config.live[0], device=config.train.device)
        source = LiveOrigin(
            model, config.live[1], buffer=config.buffer, batch_size=config.live_batch, context=config.context
        )
    count = 0
    for _, saes in train_each(source, configs, out=config.out, part_of=config.part_of, track=config.track):
        for sae in saes:
            train = sae.spec.identity["train"]
            print(f"{sae}, {train['steps']:,} steps of {train['config']['batch']:,} rows")
        count += len(saes)
    print(f"{count} in {config.out}; `mmxai sae eval` measures them")
    return OK
