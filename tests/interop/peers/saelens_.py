"""SAELens loads our SAEs, saves its own, and trains from our store."""

import sys
from pathlib import Path

import torch
from _outputs_ import keep, rows
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    SAETrainer,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    Transcoder,
    TranscoderConfig,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig

D, E, M, K = 12, 9, 40, 5
SIZE = {"d_in": D, "d_sae": M}


def prepare(job):
    return {"load": load, "make": make, "train": train}, None


def load(folder, data, out):
    x = rows(data)
    sae = SAE.load_from_disk(folder)
    keep(out, x, sae.encode(x), sae(x))


def make(folder):
    """An SAE of every kind with random weights, saved as SAELens does, and what it gives."""
    torch.manual_seed(0)
    cross = {**SIZE, "d_out": E, "apply_b_dec_to_input": False}
    made = {
        "standard": StandardSAE(StandardSAEConfig(**SIZE)),
        "uncentred": StandardSAE(StandardSAEConfig(**SIZE, apply_b_dec_to_input=False)),
        "normed": StandardSAE(StandardSAEConfig(**SIZE, normalize_activations="layer_norm")),
        "topk": TopKSAE(TopKSAEConfig(**SIZE, k=K)),
        "rescaled": TopKSAE(TopKSAEConfig(**SIZE, k=K, rescale_acts_by_decoder_norm=True)),
        "jumprelu": JumpReLUSAE(JumpReLUSAEConfig(**SIZE)),
        "gated": GatedSAE(GatedSAEConfig(**SIZE)),
        "transcoder": Transcoder(TranscoderConfig(**cross)),
        "skip": JumpReLUSkipTranscoder(JumpReLUSkipTranscoderConfig(**cross)),
        "training": TopKTrainingSAE(TopKTrainingSAEConfig(**SIZE, k=K)),
    }
    x = torch.randn(64, D) * 2
    for name, sae in made.items():
        randomise(sae)
        sae.save_model(Path(folder) / name)
        keep(Path(folder) / name / "expected.safetensors", x, sae.encode(x), sae(x))
    trained = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**SIZE, k=K))
    randomise(trained)
    trained.topk_threshold.fill_(0.3)
    path = Path(folder) / "batchtopk"
    trained.save_inference_model(path)
    sae = SAE.load_from_disk(path)
    keep(path / "expected.safetensors", x, sae.encode(x), sae(x))


def randomise(sae):
    for name, parameter in sae.named_parameters():
        parameter.data.normal_(0, 0.4)
        if name == "threshold":
            parameter.data.abs_()


def train(store, root, site, out):
    """Its trainer on our store; `site.batches()` is the data provider."""
    sys.path.insert(0, root)
    import mmxai

    torch.manual_seed(0)
    with mmxai.open_store(store) as opened:
        batches = opened[site].batches(256, shuffle=True, epochs=100, dtype=torch.float32, drop_last=True)
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=opened[site].shape[1], d_sae=128, k=8))
        settings = SAETrainerConfig(
            total_training_samples=256 * 200, train_batch_size_samples=256, lr=2e-3, lr_end=2e-3,
            logger=LoggingConfig(log_to_wandb=False),
        )  # fmt: skip
        SAETrainer(settings, sae, (batch.x for batch in batches)).fit()
    sae.save_inference_model(out)
