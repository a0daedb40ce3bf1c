"""SAEs of real models on real data, with cards: a language model over SST-2, a ResNet-20 over photographs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from PIL import Image

import mmxai
from benchmarks.study.sites import Size
from mmxai.cli import main
from mmxai.errors import DataError
from mmxai.methods.sae import TrainConfig, train_sae
from mmxai.methods.sae.card import CARD, write_card
from mmxai.methods.sae.evaluate import EvalConfig, evaluate
from tests.networks.resnet import load_resnet20, normalise

Row = dict[str, Any]

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
TEXT_SITE, MAP_SITE = "text.3.resid_post", "module:layer3.2"
SIDE = 128  # pixels: layer3 then gives a map of 32 x 32


def real(folder: Path, size: Size) -> list[Row]:
    """Both, each with the figures of its evaluation and its card."""
    if not SHARED.is_dir():
        raise DataError(f"study: got no {SHARED}, expected the real data beside the repository")
    return [stories(folder / "stories", size), resnet(folder / "resnet", size)]


def stories(folder: Path, size: Size) -> Row:
    """A TinyStories Llama over the sentences of SST-2, from the command line alone."""
    folder.mkdir(parents=True, exist_ok=True)
    sentences = folder / "sst2.txt"
    labelled = (SHARED / "text_labels" / "stsa.binary.train").read_text().splitlines()
    sentences.write_text("".join(line.partition(" ")[2] + "\n" for line in labelled))  # without its label
    model, store, out = SHARED / "stories260K", folder / "acts.zarr", folder / "sae"
    home = out / TEXT_SITE
    rows = str(2 * size.rows)
    commands = [
        ["harvest", model, sentences, "--sites", TEXT_SITE, "--tokens", "text", "--store", store],
        ["sae", "train", store, "--sites", TEXT_SITE, "--tokens", "text", "--latents", "512", "--k", "8",
         "--rows", rows, "--batch", "256", "--lr", "1e-3", "--out", out],
        ["sae", "eval", home, store, "--model", model, "--data", sentences],
    ]  # fmt: skip
    for command in commands:
        if main([str(word) for word in command]):
            raise DataError(f"study: mmxai {shlex.join(map(str, command))} failed")
    names = {str(folder): "RUN", str(SHARED): "DATA"}
    shown = "\n".join("    mmxai " + _named(command, names) for command in commands)
    text = (
        "A Llama of 260 thousand parameters, trained on TinyStories by others, reads the 6,920 sentences of "
        "SST-2: film reviews, which are not what it was trained on.\n\n" + shown
    )
    write_card(home, "An SAE of stories260K over SST-2", text)
    return _row("stories260K", home)


def resnet(folder: Path, size: Size) -> Row:
    """The last stage of a CIFAR ResNet-20 over photographs of COCO, 1,024 places of each."""
    net = load_resnet20(SHARED / "resnet_cifar10")
    photos = sorted((SHARED / "coco_mini").glob("*2017/*.jpg"))
    images = [Image.open(path).convert("RGB").resize((SIDE, SIDE)) for path in photos]
    model = mmxai.wrap(net, prepare=lambda sample: normalise(sample.image), name="resnet20")
    store, out = folder / "acts.zarr", folder / "sae"
    mmxai.harvest(model, images, sites=[MAP_SITE], store=store, batch_size=16, progress=False)
    with mmxai.open_store(store) as opened:
        config = TrainConfig(sites=(MAP_SITE,), latents=512, k=8, rows=2 * size.rows, batch=256, lr=1e-3)
        (sae,) = train_sae(opened, config, out=out, part_of="0/1")
        home = out / MAP_SITE
        nulls = ("pca", "frozen", "seed")
        evaluate(sae, opened, EvalConfig(nulls=nulls), folder=home / "nulls").save(home / "eval.json")
    text = (
        f"ResNet-20, trained on CIFAR-10 by others, on {len(photos)} photographs of COCO of {SIDE} x {SIDE} "
        f"pixels: the map behind its last block, 32 x 32 places of 64 channels. Photographs, not places, are "
        "held out. The untrained network is not among the nulls here."
    )
    write_card(home, "An SAE of ResNet-20 over photographs", text)
    return _row("ResNet-20", home)


def _named(command: list[Any], names: dict[str, str]) -> str:
    text = shlex.join(map(str, command))
    for path, name in names.items():
        text = text.replace(path, name)
    return text


def _row(model: str, home: Path) -> Row:
    found = json.loads((home / "eval.json").read_text())
    return {"model": model, "card": (home / CARD).read_text(), "figures": {"sae": found["figures"],
            **{n: e["figures"] for n, e in found["nulls"].items()}}}  # fmt: skip
