"""sparsify loads our coders and saves its own."""

import os

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"

from pathlib import Path

import torch

if not torch.cuda.is_available():
    torch.cuda.is_bf16_supported = lambda *_, **__: False

from _outputs_ import keep, rows
from sparsify import SparseCoder, SparseCoderConfig

D, M, K = 12, 40, 5


def prepare(job):
    return {"load": load, "make": make}, None


def load(folder, data, out):
    x = rows(data)
    coder = SparseCoder.load_from_disk(folder)
    keep(out, x, dense(coder, x), coder(x).sae_out)


def dense(coder, x):
    acts, indices, _ = coder.encode(x)
    return torch.zeros(len(x), coder.num_latents).scatter(1, indices, acts)


def make(folder):
    torch.manual_seed(0)
    size = {"num_latents": M, "k": K}
    configs = {
        "layers.1": SparseCoderConfig(**size),
        "layers.2.mlp": SparseCoderConfig(**size, transcode=True, skip_connection=True),
    }
    x = torch.randn(64, D) * 2
    for name, config in configs.items():
        coder = SparseCoder(D, config)
        for parameter in coder.parameters():
            parameter.data.normal_(0, 0.4)
        coder.save_to_disk(Path(folder) / name)
        keep(Path(folder) / name / "expected.safetensors", x, dense(coder, x), coder(x).sae_out)
