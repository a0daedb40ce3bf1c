"""sparsify: dense product and top-k, sparse decoder, gradients by index_add_.

Variants: `fused` gives it torch's fused Adam, `compiled` compiles its forward pass.
"""

import os

import torch
from _sae_ import dead_of, rate_of, serve

AUX = 1 / 32


def prepare(job):
    if job["device"] == "cpu":
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # read when it is imported; its Triton wants a GPU
    if not torch.cuda.is_available():
        torch.cuda.is_bf16_supported = lambda *_, **__: False  # asked at import, and raises without a GPU
    import sparsify  # noqa: F401  before the clock and the count of memory begin, as with the others

    return serve(job, make)


def make(job, first):
    from sparsify import SparseCoder, SparseCoderConfig

    config = SparseCoderConfig(num_latents=job["latents"], k=job["k"])
    # On a GPU its forward pass is bfloat16 by autocast, as ours is by `product`.
    coder = SparseCoder(job["width"], config, dtype=torch.float32, device=job["device"])
    coder.b_dec.data = first.mean(0)
    if job["native"]:
        from schedulefree import ScheduleFreeWrapper
        from sparsify.sign_sgd import SignSGD

        rate = 5e-3 / (job["latents"] / 2**14) ** 0.5
        optimizer = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=rate), momentum=0.95)
        optimizer.train()
    else:
        fused = True if job["variant"] == "fused" else None
        optimizer = torch.optim.Adam(coder.parameters(), lr=rate_of(job), fused=fused)
    forward = torch.compile(coder) if job["variant"] == "compiled" else coder
    dead = None
    if job["dead"]:
        dead = torch.zeros(job["latents"], dtype=torch.bool, device=job["device"])
        dead[dead_of(job)] = True

    def step(x):
        coder.set_decoder_norm_to_unit_norm()
        out = forward(x, dead_mask=dead)
        (out.fvu + AUX * out.auxk_loss).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    def reconstruct(x):
        if job["native"]:
            optimizer.eval()
        with torch.no_grad():
            return coder(x).sae_out

    return step, reconstruct
