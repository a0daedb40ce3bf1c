"""TransformerLens: its `logit_lens` on given states, in chunks of the size that is quickest here.

It gives the largest logits or those of targets, not both: `top` asks for the first, `both` goes twice.
Neither has a divergence.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import logit_lens
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

CHUNKS = (64, 512)


def prepare(job):
    torch.set_num_threads(job["threads"])
    read = {n: torch.from_numpy(np.load(Path(job["folder"], f"{n}.npy"))) for n in
            ("states", "weight", "norm", "targets")}  # fmt: skip
    states = read["states"][-job["blocks"] :][:, None]  # [blocks, 1, positions, D]
    bridge = bridged(read, states)
    names = [f"blocks.{i}.hook_resid_pre" for i in range(len(states))]
    entries = [torch.zeros_like(states[0]), *states]
    cache = ActivationCache(
        dict(zip([*names, f"blocks.{len(states) - 1}.hook_resid_post"], entries, strict=True)), bridge
    )
    found = {}

    def lens(chunk, layers, **asked):
        return logit_lens(
            bridge,
            cache=cache,
            positions=None,
            layers=layers,
            chunk_size=chunk,
            return_type="log_probs",
            **asked,
        ).readout

    seconds = {}
    for size in CHUNKS * 2:  # the first turn warms up
        start = time.perf_counter()
        lens(size, [1], top_k=job["k"])
        seconds[size] = time.perf_counter() - start
    chunk = min(seconds, key=seconds.get)
    layers = list(range(1, len(states) + 1))

    def top():
        largest = lens(chunk, layers, top_k=job["k"])
        found.update(ids=largest.top_ids, logs=largest.values, entropy=largest.entropy)

    def both():
        top()
        wanted = lens(chunk, layers, targets=read["targets"][None])
        found.update(ranks=wanted.target_ranks[..., 0], target_logs=wanted.values[..., 0])

    def answer():
        path = str(Path(job["folder"], "transformer_lens.npz"))
        np.savez(path, **{name: x[:, 0].detach().numpy() for name, x in found.items()})
        return {"found": path, "chunk": chunk}

    return {"top": top, "both": both}, answer


def bridged(read, states):
    """A GPT-2 with the unembedding and the last norm of the job; its blocks never run."""
    vocabulary, width = read["weight"].shape
    config = GPT2Config(
        n_layer=len(states), n_embd=width, n_head=1, n_inner=1, vocab_size=vocabulary,
        n_positions=states.shape[2], architectures=["GPT2LMHeadModel"], tie_word_embeddings=True,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.lm_head.weight.copy_(read["weight"])
        model.transformer.ln_f.weight.copy_(read["norm"][0])
        model.transformer.ln_f.bias.copy_(read["norm"][1])
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="a", eos_token="b", pad_token="b")
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model, device="cpu")
