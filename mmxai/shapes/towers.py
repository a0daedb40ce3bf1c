"""The two towers of the world's CLIP, run as fast as plain PyTorch runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import normalize

from mmxai.errors import ModelError
from mmxai.shapes.feed import Encoder, pad
from mmxai.shapes.model import IMAGE

if TYPE_CHECKING:
    from transformers import CLIPModel

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's image processor
_STD = (0.26862954, 0.26130258, 0.27577711)


def plain_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention written out, for the CPU, where torch's fused backward pass in bfloat16 is slow.

    query, key, value: `[B, heads, T, head]`; returns `[B, T, heads, head]`. Padding on the right needs no
    mask in a causal tower that pools at the end of the text.
    """
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    scores = (query * scaling) @ key.transpose(-1, -2)
    if is_causal:
        length = scores.shape[-1]
        scores = scores + scores.new_full((length, length), float("-inf")).triu(1)
    weights = torch.softmax(scores, -1, dtype=scores.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), None


def normalised(images: torch.Tensor) -> torch.Tensor:
    """uint8 `[N, H, W, 3]` -> float32 `[N, 3, H, W]` as CLIP's image processor scales them."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (_MEAN, _STD))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


class Towers:
    """A CLIPModel as two functions to unit vectors.

    `autocast`, for training: matrix products in bfloat16, and on the CPU attention by `plain_attention`.
    """

    def __init__(self, model: CLIPModel, *, autocast: bool = False):
        self._encode = Encoder()
        config = model.config.to_dict()
        found = config["vision_config"]["image_size"], config["text_config"]["vocab_size"]
        if found != (IMAGE, len(self._encode)):
            raise ModelError(
                f"{model.config._name_or_path or 'model'}: got a CLIP of {found[0]} pixels and {found[1]:,} "
                f"words, expected the shapes world's {IMAGE} and {len(self._encode)}"
            )
        self.model, self.autocast = model, autocast
        self.device = model.device
        if autocast and self.device.type == "cpu":
            from transformers import AttentionInterface

            AttentionInterface.register("plain", plain_attention)
            model.set_attn_implementation("plain")

    @property
    def scale(self) -> torch.Tensor:
        """What cosines are multiplied by."""
        return self.model.logit_scale.exp()

    def pictures(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, H, W, 3]` -> float32 `[N, width]`, unit vectors."""
        pixels = normalised(images.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            out = self.model.visual_projection(pooled)
        return normalize(out.float(), dim=-1)

    def texts(self, tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """Buckets of int64 `[t, L]` -> float32 `[T, width]`, unit vectors, in the buckets' order."""
        out = []
        for ids in tokens:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                pooled = self.model.text_model(input_ids=ids.to(self.device)).pooler_output
                out.append(self.model.text_projection(pooled).float())
        return normalize(torch.cat(out), dim=-1)

    @torch.inference_mode()
    def embed_pictures(self, images: np.ndarray, batch: int = 256) -> torch.Tensor:
        """`pictures` in batches, on the CPU."""
        parts = torch.from_numpy(images).split(batch)
        return torch.cat([self.pictures(part).cpu() for part in parts])

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch: int = 512) -> torch.Tensor:
        """float32 `[T, width]` on the CPU, in the order given; each different sentence runs once."""
        ids = {text: self._encode(text) for text in dict.fromkeys(texts)}
        order = sorted(ids, key=lambda text: len(ids[text]))
        tokens = [pad([ids[t] for t in order[a : a + batch]]) for a in range(0, len(order), batch)]
        place = {text: k for k, text in enumerate(order)}
        return self.texts(tokens).cpu()[[place[text] for text in texts]]


def load_towers(folder: str | Path, device: str = "cpu") -> Towers:
    """The towers of a model folder, in float32. Raises ModelError."""
    from transformers import CLIPModel

    try:
        loaded: Any = CLIPModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: got no CLIP for the shapes world here ({error})") from error
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(f"{folder}: got weights without {missing}, expected all of a CLIP")
    model.to(device)
    return Towers(model.eval())
