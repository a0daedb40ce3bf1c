"""SAELens: dense products throughout; its trainer's whole step.

Variant `compiled` compiles its forward pass.
"""

import torch
from _sae_ import dead_of, rate_of, serve
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig


def prepare(job):
    return serve(job, make)


def make(job, first):
    config = TopKTrainingSAEConfig(d_in=job["width"], d_sae=job["latents"], k=job["k"])
    sae = TopKTrainingSAE(config)
    rate = 3e-4 if job["native"] else rate_of(job)
    settings = SAETrainerConfig(
        total_training_samples=1 << 40, train_batch_size_samples=job["rows"], lr=rate, lr_end=rate,
        logger=LoggingConfig(log_to_wandb=False), feature_sampling_window=1 << 40,
    )  # fmt: skip
    trainer = SAETrainer(settings, sae, iter(()))
    if job["variant"] == "compiled":
        sae.training_forward_pass = torch.compile(sae.training_forward_pass)
    silent = trainer.n_forward_passes_since_fired

    def step(x):
        if job["dead"]:
            silent[dead_of(job)] = settings.dead_feature_window + 1
        trainer.step(x)
        trainer.n_training_steps += 1

    def reconstruct(x):
        with torch.no_grad():
            return sae(x)

    return step, reconstruct
