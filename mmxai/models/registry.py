"""Which adapter serves which model: one line a model type."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from mmxai.errors import ModelError
from mmxai.models.adapter import Family

# transformers' config.model_type -> file in families/
FAMILIES = {
    "bert": "bert",
    "blip-2": "blip_2",
    "camembert": "bert",
    "clip": "clip",
    "clip_text_model": "clip",
    "clip_vision_model": "clip",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "electra": "bert",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma3",
    "gemma3_text": "gemma",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "llama": "llama",
    "llava": "llava",
    "llava_next": "llava_next",
    "llava_onevision": "llava_next",
    "mistral": "llama",
    "mt5": "t5",
    "opt": "opt",
    "paligemma": "paligemma",
    "qwen2": "llama",
    "qwen2_5_vl": "qwen2_vl",
    "qwen2_vl": "qwen2_vl",
    "qwen3": "llama",
    "roberta": "bert",
    "siglip": "siglip",
    "siglip_text_model": "siglip",
    "siglip_vision_model": "siglip",
    "t5": "t5",
    "umt5": "t5",
    "vit": "vit",
    "xlm-roberta": "bert",
}


def family_of(config: Any) -> Family:
    """The adapter for a config. Raises ModelError for model types without one."""
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES:
        near = difflib.get_close_matches(str(kind), FAMILIES, n=3)
        raise ModelError(
            f"model type {kind!r} has no adapter (there are {', '.join(sorted(FAMILIES))})"
            + (f"; near: {', '.join(near)}" if near else "")
            + "; use mmxai.wrap(module) to reach its modules by path"
        )
    file = import_module(f"mmxai.models.families.{FAMILIES[kind]}")
    return file.family(config) if hasattr(file, "family") else file.FAMILY
