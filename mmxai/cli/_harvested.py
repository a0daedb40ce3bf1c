"""What a store was harvested from, found again: its data, cut as they were, and what is known of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmxai.data import Source, Stream, open_data
from mmxai.errors import ArgumentError, DataError
from mmxai.harvesting import HarvestConfig
from mmxai.harvesting.run import cut_source, towers_of
from mmxai.store.plan import differences

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.shapes import ShapesWorld
    from mmxai.store import Store

WORLD = "world.json"
"""Beside the pictures that `mmxai shapes` writes: which they are."""

_BOS: tuple[Literal["auto", "never", "always"], ...] = ("auto", "never", "always")


@dataclass(frozen=True)
class Harvested:
    """`samples`: sample i is the store's. `config` and `data`: what harvests the store's rows once more."""

    samples: Source
    data: Source | Stream
    config: HarvestConfig


def again(model: Model, data: Any, store: Store, sites: tuple[str, ...]) -> Harvested:
    """What `sites` of a store were harvested from; of a store of codes, what was encoded.

    Texts are fed by `model` from now on as they were then. ArgumentError where model or data are others than
    those of the store.
    """
    identity = store.plan.identity
    if missing := sorted({"model", "data", "inputs", "selection"} - set(identity)):
        raise ArgumentError(
            f"{store.path}: got a store without {missing} in its plan, expected one that `mmxai harvest` "
            "made, which says how the model was fed; leave --model out"
        )
    if identity["model"].get("weights") != model.identity["weights"]:
        raise ArgumentError(
            f"{store.path}: got model {model.name!r}, whose weights are not those of the store "
            f"({store.plan.notes.get('model')!r}), expected the model that was harvested"
        )
    columns = _column_names(identity["data"])
    towers = towers_of(model, model.resolve(sites))
    unlike: list[list[str]] = []
    for config in _configs(store, sites, towers):
        opened = open_data(data, image_column=columns.get("image"), text_column=columns.get("text"))
        source = cut_source(model, opened, towers, config)
        if not isinstance(source, Source):
            raise ArgumentError(f"got data {data!r} without random access, expected some with a length")
        fed = {k: v for k, v in model.inputs_identity().items() if k in towers}
        asked = json.loads(json.dumps({"data": source.identity, "inputs": fed}))
        known = {"data": identity["data"], "inputs": {k: identity["inputs"].get(k) for k in fed}}
        found = differences(known, asked)
        if not found:
            return Harvested(source, opened, config)
        unlike.append(found)
    raise ArgumentError(
        f"{store.path}: got data that were not harvested into it ({'; '.join(min(unlike, key=len)[:4])}), "
        "expected the same data set"
    )


def _configs(store: Store, sites: tuple[str, ...], towers: list[str]) -> Iterator[HarvestConfig]:
    """The options of the harvest as the plan tells them; of `bos` it tells only what came of it, so each."""
    plan = store.plan
    data, chosen = plan.identity["data"], plan.identity["selection"]
    site = next((s for s in plan.sites if s.name == sites[0]), plan.sites[0])
    options: dict[str, Any] = {
        "sites": sites, "tokens": _joined(chosen["tokens"]), "pool": _joined(chosen["pool"]),
        "per_sample": chosen["per_sample"], "order": plan.order, "seed": plan.seed,
        "limit": data.get("limit"), "store_dtype": site.dtype, "topk": site.k, "on_error": "skip",
    }  # fmt: skip
    text = next((v for k, v in plan.identity["inputs"].items() if k in towers and "context" in v), None)
    if text is None:
        yield HarvestConfig(**options)
        return
    options |= {"context": text["context"], "long": text["long"]}
    if data.get("kind") == "contexts":
        options |= {"context": data["length"], "stride": data["stride"], "pack": data["pack"]}
    for bos in _BOS:
        yield HarvestConfig(**options, bos=bos)


def world_of(store: Store, data: str | None = None) -> ShapesWorld | None:
    """The shapes world whose picture i is the store's sample i: by the plan, or by the file that
    `mmxai shapes` left beside the pictures `data`. None where the data are something else."""
    from mmxai.shapes import ShapesWorld

    found = _world_in(store.plan.identity.get("data"))
    if found is None and data is not None:
        found = _world_beside(store, Path(data))
    if found is None:
        return None
    world = ShapesWorld(found["n"], seed=found["seed"], size=found["size"], split=found["split"])
    if world.identity["version"] != found["version"]:
        raise ArgumentError(
            f"sae eval: got version {found['version']} of the shapes world, expected "
            f"{world.identity['version']}; harvest again, or use the version of mmxai that made it"
        )
    return world


def _world_in(identity: Any) -> Mapping[str, Any] | None:
    """Of a sequence of the world's items, limited or not; contexts cut from texts have other numbers."""
    own = identity.get("identity") if isinstance(identity, dict) else None
    return own if isinstance(own, dict) and own.get("world") == "shapes" else None


def _world_beside(store: Store, data: Path) -> Mapping[str, Any] | None:
    path = data.parent / WORLD
    if not path.is_file():
        return None
    if any(Path(s.key).stem != f"{s.sample:07d}" for s in store.samples):
        return None  # a table of captions: its samples are no pictures
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: found[name] for name in ("version", "n", "seed", "size", "split")}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: {error!r}, expected the file that `mmxai shapes` writes") from error


def _column_names(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """Which columns a table's picture and text were, below contexts and limits."""
    if identity.get("kind") == "contexts":
        return _column_names(identity["of"])
    found: Mapping[str, Any] = identity.get("columns") or {}
    return found


def _joined(value: Any) -> str | None:
    return ",".join(map(str, value)) if isinstance(value, list) else value
