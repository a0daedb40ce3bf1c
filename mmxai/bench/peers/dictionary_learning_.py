"""dictionary_learning: dense products throughout; its trainer's whole step.

Variant `compiled` compiles its loss. The geometric median of its first step is found before the clock runs.
"""

import torch
from _sae_ import dead_of, rate_of, serve
from dictionary_learning.trainers.top_k import TopKTrainer, geometric_median


def prepare(job):
    return serve(job, make)


def make(job, first):
    trainer = TopKTrainer(
        steps=1 << 30, activation_dim=job["width"], dict_size=job["latents"], k=job["k"], layer=0,
        lm_name="x", device="cpu", warmup_steps=10 if job["native"] else 0,
        lr=None if job["native"] else rate_of(job),
    )  # fmt: skip
    trainer.ae.b_dec.data = geometric_median(first)
    if job["variant"] == "compiled":
        trainer.loss = torch.compile(trainer.loss)

    def step(x):
        if job["dead"]:
            trainer.num_tokens_since_fired[dead_of(job)] = trainer.dead_feature_threshold
        trainer.update(1, x)  # at 0 it would find the median again; a number that changes is compiled anew

    def reconstruct(x):
        with torch.no_grad():
            return trainer.ae(x)

    return step, reconstruct
