"""The logit lens: what every block, position and head of a model would say if it were the last.

SOURCE is a model, with prompts, a picture, or a picture and a question; or a store of activations, with
--model, which takes the model or a folder that holds its unembedding alone. Of a language model states are
read as tokens; of a CLIP its patches are compared with --texts.

examples:
  mmxai lens gpt2/ 'The Eiffel Tower is in'
  mmxai lens gpt2/ prompts.txt --sites 'text.*.resid_post' 'text.8-11.z' --target ' Paris'
  mmxai lens llava/ bus.jpg 'What colour is the bus?' --target red blue
  mmxai lens shapes-clip picture.png --texts 'a red object' 'a blue object' 'the background'
  mmxai lens acts.zarr --model gpt2/ --tokens text --target next
  mmxai lens gpt2/ 'The Eiffel Tower is in' --tuned tuned/ --generate 4
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError, DataError
from mmxai.methods.lens.config import LensConfig

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.methods.lens import LensResult, Transfer
    from mmxai.methods.lens.tuned import TunedLens
    from mmxai.models import Model
    from mmxai.models.unembedding import Unembedding

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_PRINTED = 3  # samples whose tables are printed


@dataclass
class Config:
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Model or store."""
    content: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE] [TEXT ...]")
    ] = ()
    """Of a model: a picture's file, texts, or a .txt file of them; a text behind a picture is about it."""
    model: str | None = None
    """Of a store: the model that was harvested, or a folder with its unembedding."""
    data: str | None = None
    """Of a store: the data set that was harvested, for its pictures."""
    lens: LensConfig = field(default_factory=LensConfig)
    neighbours: str | None = None
    """Of a model: a store of its states of texts, in which each sample's last position is looked up, site by
    site; neighbours.csv."""
    out: str = "lens"
    """Folder for lens.json and lens.safetensors (everything), and index.html."""
    archive: str | None = None
    """A Zarr group for everything of all rows, where a store has more than a result keeps."""
    shown: int = 8
    """Samples on the page."""
    device: str | None = None
    """Where the model runs; default: cuda where there is one, else cpu."""


def run(config: Config) -> int:
    from mmxai.methods.lens.tables import cells_table, positions_table
    from mmxai.report.lens import lens_page

    if config.lens.k < 1 or config.shown < 1:
        raise ArgumentError(f"got --k {config.lens.k}, --shown {config.shown}, expected at least 1 of each")
    store = _is_store(config)
    if store and (config.lens.generate or config.neighbours):
        raise ArgumentError(f"--generate, --neighbours: got the store {config.source}, expected a model")
    if store and config.content:
        raise ArgumentError(f"got the store {config.source} and {list(config.content)}, expected no content")
    found, between, pictures = _stored(config) if store else _live(config)
    print(found)
    for sample in found.rows[:, 0].unique().tolist()[: 0 if store else _PRINTED]:
        cells = found.rows[found.of_sample(sample), 2] >= 0
        if cells.any():
            print(f"\n{cells_table(found, sample)}")
        if not cells.all() and found.rows[:, 5].max() >= 0:
            print(f"\n{positions_table(found, sample, shutil.get_terminal_size((120, 30)).columns)}")
    if between is not None:
        print(f"\n{between}")
    out = Path(config.out)
    found.save(out / "lens.json")
    title = f"Lens on {found.model}"
    page = lens_page(
        found, out / "index.html", title=title, between=between, pictures=pictures, samples=config.shown
    )
    print(f"\nwritten to {page}")
    return OK


Pictures = Callable[[int], "Image.Image"] | None
Looked = tuple["LensResult", "Transfer | None", Pictures]


def _live(config: Config) -> Looked:
    from mmxai.cli._lens_near import near
    from mmxai.methods.lens import lens, transfer
    from mmxai.models import load_model

    if config.model is not None or config.data is not None:
        raise ArgumentError(
            f"got --model or --data, and {config.source}, which is no store, expected a store or content"
        )
    given, named = _content(config)
    options = config.lens
    options.bank()  # a file that is not there is told before a model is loaded
    model = load_model(config.source, device=config.device)
    unembed, translator = _end(config, model), _translator(config)
    if model.modality(unembed.tower) == "text":
        model.set_texts(unembed.tower, long="error")
    sites = _sites(config, translator, unembed)
    found = lens(
        model, given, sites=sites, unembed=unembed, targets=_targets(config, unembed), k=options.k,
        translator=translator, generate=options.generate, archive=config.archive,
    )  # fmt: skip
    between = None
    if options.transfer and len(found.stream()) > 1:
        between = transfer(
            model, given, sites=sites, unembed=unembed, translator=translator, generate=options.generate
        )
    for sample, name in enumerate(named):
        if name and sample in found.samples:
            found.samples[sample]["key"] = name
    if config.neighbours is not None:
        stream = [found.states[i] for i in found.stream()]
        table, said = near(model, given, stream, config.neighbours)
        print(f"{said}\n")
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        table.to_csv(out / "neighbours.csv", index=False)
    images = [one.get("image") for one in given]
    return found, between, (lambda sample: images[sample]) if any(images) else None


def _stored(config: Config) -> Looked:
    from mmxai.cli._shown import pictures_of, same_model
    from mmxai.methods.lens import lens_store, transfer_store
    from mmxai.models import load_model
    from mmxai.models.unembedding import is_unembedding, load_unembedding
    from mmxai.store import open_store

    if config.model is None:
        raise ArgumentError(
            f"{config.source}: got a store and no --model, expected the model that was harvested, or a "
            "folder with its unembedding"
        )
    options, translator = config.lens, _translator(config)
    store = open_store(config.source)
    model: Model | None = None
    if is_unembedding(config.model):
        unembed = load_unembedding(config.model)
    else:
        model = load_model(config.model, device=config.device)
        same_model(model, store)
        unembed = _end(config, model)
    chosen: dict[str, Any] = {
        "sites": _sites(config, translator, unembed), "tokens": options.tokens, "samples": options.samples,
        "translator": translator,
    }  # fmt: skip
    with store:
        pictures = pictures_of(config.data, store)
        found = lens_store(
            store, model or unembed, unembed=unembed, targets=_targets(config, unembed), k=options.k,
            archive=config.archive, **chosen,
        )  # fmt: skip
        between = None
        if options.transfer and len(found.stream()) > 1:
            between = transfer_store(store, model or unembed, unembed=unembed, **chosen)
        kept = found.rows[:, 0].unique().tolist()[: config.shown] if pictures is not None else []
        images = {sample: pictures(sample) for sample in kept} if pictures is not None else {}
    return found, between, images.__getitem__ if images else None


def _end(config: Config, model: Model) -> Unembedding:
    from mmxai.models.token_bank import token_embedding
    from mmxai.models.unembedding import unembedding

    if config.lens.against == "tokens":
        return token_embedding(model, config.lens.tower or "text")
    return unembedding(model, config.lens.tower, config.lens.bank())


def _translator(config: Config) -> TunedLens | None:
    from mmxai.methods.lens.tuned import load_tuned_lens

    if config.lens.tuned is None:
        return None
    return load_tuned_lens(config.lens.tuned, tower=config.lens.tower or "text")


def _sites(config: Config, translator: TunedLens | None, unembed: Unembedding) -> list[str] | None:
    """Those asked for; by default of a tuned lens, the states that it translates, and the last."""
    if config.lens.sites or translator is None:
        return list(config.lens.sites) or None
    return [*translator.sites, f"{translator.tower}.{translator.blocks - 1}.resid_post"]


def _targets(config: Config, unembed: Unembedding) -> str | tuple[str, ...] | None:
    asked = config.lens.asked()
    follows = unembed.bank is None and config.lens.against == "output"
    return "next" if asked is None and follows else asked


def _is_store(config: Config) -> bool:
    path = Path(config.source)
    return config.source.rstrip("/").endswith(".zarr") or (path / "zarr.json").is_file()


def _content(config: Config) -> tuple[list[dict[str, Any]], list[str]]:
    """Samples of the content, a picture, texts, or a picture with each text that follows it; their pictures'
    names."""
    from PIL import Image, UnidentifiedImageError

    if not config.content:
        raise ArgumentError(
            f"{config.source}: got a model and nothing to read, expected a text, a picture, or a picture and "
            "a question (a store would end in .zarr)"
        )
    found: list[dict[str, Any]] = []
    named: list[str] = []
    picture: Any = None
    name, used = "", True
    for given in config.content:
        path = Path(given)
        if path.suffix.lower() in _PICTURES and not any(c.isspace() for c in path.suffix):
            if not used:
                found.append({"image": picture})
                named.append(name)
            try:
                picture = Image.open(_there(path)).convert("RGB")
            except UnidentifiedImageError as error:
                raise DataError(f"{path}: is no picture ({error})") from error
            name, used = path.name, False
            continue
        texts = [given]
        if path.suffix == ".txt":
            texts = [t for t in _there(path).read_text(encoding="utf-8").splitlines() if t.strip()]
        found += [{"text": t} if picture is None else {"image": picture, "text": t} for t in texts]
        named += [name] * len(texts)
        used = True
    return (found, named) if used else ([*found, {"image": picture}], [*named, name])


def _there(path: Path) -> Path:
    if path.is_file():
        return path
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, 1)
    hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
    raise DataError(f"{path}: no such file{hint}")
