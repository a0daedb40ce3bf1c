"""A tiny CLIP and a small world, made once."""

from pathlib import Path

import pytest
import torch

import mmxai
from mmxai.shapes import ShapesWorld
from mmxai.shapes.model import build_tokenizer


def save_tiny_clip(folder: Path) -> Path:
    """A random CLIP of two blocks of width 32 a tower, over 32 px pictures in patches of 8."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    tokenizer = build_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "projection_dim": 16}
    text = {**size, "num_attention_heads": 4, "vocab_size": len(tokenizer), "max_position_embeddings": 48}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    vision = {**size, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="session")
def clip(clip_folder):
    return mmxai.load_model(str(clip_folder))


@pytest.fixture(scope="session")
def world():
    return ShapesWorld(90, seed=1, size=32)
