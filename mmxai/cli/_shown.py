"""What pages show of samples: their pictures, checked; tokens as text; and which units were asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmxai.errors import ArgumentError

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.methods.sae.model import SAE
    from mmxai.models import Model
    from mmxai.shapes import ShapesWorld
    from mmxai.store import Store


def same_model(model: Model, store: Store) -> None:
    """ArgumentError where the store is of another model's weights: names would mean nothing."""
    stored = store.plan.identity.get("model") or {}
    if stored.get("weights") not in (None, model.identity["weights"]):
        raise ArgumentError(
            f"--model {model.name}: got other weights than those that {store.path} is of, expected the model "
            "that was harvested"
        )


def same_sae(sae: SAE, store: Store) -> None:
    """ArgumentError where another SAE made the latents of the store, or nothing says which."""
    from mmxai.methods.sae.nulls import fingerprint

    made_by, own = (store.plan.identity.get("sae") or {}).get("weights"), fingerprint(sae)
    if made_by != own:
        whose = "no SAE" if made_by is None else f"another SAE (weights {made_by}, this one's {own})"
        raise ArgumentError(
            f"{store.path}: got a store that {whose} made, expected the one that this SAE was encoded to; "
            "`mmxai sae encode` makes it"
        )


def pictures_of(data: str | ShapesWorld | None, store: Store) -> Callable[[int], Image.Image] | None:
    """The original of a sample, by its index; each is compared with what the store says of it."""
    from mmxai.data import Source, open_data

    if data is None:
        return None
    said = f"--images {data}" if isinstance(data, str) else "the shapes world"
    source = open_data(data)
    if not isinstance(source, Source):
        raise ArgumentError(f"{said}: got a stream, expected data whose samples can be asked for")

    def picture(index: int) -> Image.Image:
        stored = store.samples[index]
        sample = source[index] if index < len(source) else None
        if sample is None or sample.digest != stored.hash or sample.image is None:
            raise ArgumentError(
                f"{said}: got {sample}, expected sample {index} ({stored.key!r}) as it was harvested; give "
                "the very data that the store is of"
            )
        return sample.image

    return picture


def decoder_of(model: Model) -> Callable[[int], str] | None:
    text = next((name for name in model.towers if model.modality(name) == "text"), None)
    pipeline = None if text is None else model.set_texts(text)
    return None if pipeline is None else lambda token: pipeline.decode([token])


def numbers_of(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ArgumentError(f"--only: got {text!r}, expected numbers with commas between, as 3,17") from error
