"""Pages about a sparse autoencoder: its training, its latents, one by one."""

from mmxai.report.sae.evaluation import read_evaluation
from mmxai.report.sae.pages import DRAWN, LatentPages, latent_pages, latents_site
from mmxai.report.sae.surveying import draw_latents, survey
from mmxai.report.sae.training import read_metrics, training_plots

__all__ = [
    "DRAWN",
    "LatentPages",
    "draw_latents",
    "latent_pages",
    "latents_site",
    "read_evaluation",
    "read_metrics",
    "survey",
    "training_plots",
]
