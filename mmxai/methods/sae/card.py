"""A card for an SAE: what it is of, how it was trained, its figures beside its nulls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmxai.errors import SAEFormatError
from mmxai.methods.sae.files import read
from mmxai.methods.sae.metrics_log import NAME as METRICS
from mmxai.methods.sae.spec import SAESpec
from mmxai.results import number

CARD, EVALUATION = "README.md", "eval.json"

_OPTIONS = ("batch", "lr", "warmup", "decay", "tokens", "split", "seed", "init", "center", "normalise",
            "aux", "dead_after", "product")  # fmt: skip


def write_card(folder: str | Path, title: str, text: str = "", out: str | Path | None = None) -> Path:
    """README.md for the SAE in `folder`, from its sae.json, metrics.jsonl and, where there is one, eval.json.

    `text`: Markdown below the title: what it is for, how its data were made. `out`: another file.
    """
    home = Path(folder)
    spec, _ = read(home)
    lines = [f"# {title}", "", *([text.strip(), ""] if text.strip() else []), _what(spec), ""]
    lines += ["## Training", "", *_training(spec, home), ""]
    lines += ["## Figures", "", *_figures(home), ""]
    path = home / CARD if out is None else Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def _what(spec: SAESpec) -> str:
    sites = " + ".join(f"`{s}`" for s in spec.sites_in)
    if spec.kind == "transcoder":
        sites += " to " + " + ".join(f"`{s}`" for s in spec.sites_out)
    active = "" if spec.k is None else f", {spec.k} active a row"
    kind = {"sae": "sparse autoencoder"}.get(spec.kind, spec.kind)
    return (
        f"A {spec.arch} {kind} of {sites}: {spec.width_in} wide, {spec.latents:,} latents{active}. "
        "`mmxai.load_sae(folder)` loads it."
    )


def _training(spec: SAESpec, home: Path) -> list[str]:
    known = spec.identity.get("train", {})
    config: Mapping[str, Any] = known.get("config", {})
    lines = []
    if known:
        lines.append(f"- {known['rows']:,} rows in {known['steps']:,} steps")
    for name in ("model", "data"):
        if (of := spec.identity.get(name)) is not None:
            lines.append(f"- {name}: `{json.dumps(of, sort_keys=True)}`")
    if config:
        said = ", ".join(f"{n} {config[n]}" for n in _OPTIONS if config.get(n) is not None)
        lines.append(f"- {said}; other options as by default" if said else "- options as by default")
    log = home / METRICS
    entries = log.read_text().splitlines() if log.exists() else []
    if entries:
        last = json.loads(entries[-1])
        shown = {"FVU": last["fvu"], "L0": last["l0"], "dead": last["dead"]}
        said = ", ".join(f"{n} {number(v)}" for n, v in shown.items())
        lines.append(f"- at the end, on its own batches: {said}")
    return lines or ["Not trained by mmxai."]


def _figures(home: Path) -> list[str]:
    path = home / EVALUATION
    if not path.exists():
        return ["None yet: `mmxai sae eval` measures it on held-out samples, beside its nulls."]
    found = json.loads(path.read_text())
    if "figures" not in found or "metrics" not in found:
        raise SAEFormatError(f"{path}: got no figures, expected the file of `mmxai sae eval`; run it again")
    columns = {"this SAE": found["figures"], **{n: e["figures"] for n, e in found["nulls"].items()}}
    lines = [
        f"On {found['metrics']['rows']:,} held-out rows, beside its nulls (docs/sae.md says what each is).",
        "",
        f"| | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]
    for name in found["figures"]:
        cells = [number(values.get(name)) for values in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *(f"Not measured: {name}: {why}." for name, why in found["missing"].items())]
    return lines
