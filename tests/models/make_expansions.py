"""Writes expansions.json: how many placeholders pictures take, by the processors' own formulas.

    python tests/models/make_expansions.py

The processors themselves cannot all be built here (OneVision's wants torchvision for its videos); their
formulas need only the numbers that are set by hand below, those of the published checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from transformers import LlavaNextConfig, LlavaOnevisionConfig
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

SIZES = [(480, 640), (640, 480), (333, 500), (1000, 300), (300, 1000), (336, 336), (50, 40), (1080, 1920)]


def of(cls, side: int, pinpoints, **numbers) -> list[dict]:
    processor = object.__new__(cls)
    processor.image_processor = SimpleNamespace(image_grid_pinpoints=pinpoints)
    for name, value in numbers.items():
        setattr(processor, name, value)
    minus = numbers["vision_feature_select_strategy"] == "default"
    counts = [processor._get_number_of_features(h, w, side, side) - minus for h, w in SIZES]
    return [{"height": h, "width": w, "soft": n} for (h, w), n in zip(SIZES, counts, strict=True)]


def main() -> None:
    out = {
        "llava_next": of(
            LlavaNextProcessor,
            336,
            LlavaNextConfig().image_grid_pinpoints,
            patch_size=14,
            num_additional_image_tokens=1,
            vision_feature_select_strategy="default",
        ),
        "llava_onevision": of(
            LlavaOnevisionProcessor,
            384,
            LlavaOnevisionConfig().image_grid_pinpoints,
            num_image_tokens=729,
            vision_aspect_ratio="anyres_max_9",
            vision_feature_select_strategy="full",
        ),
    }
    (Path(__file__).parent / "expansions.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
