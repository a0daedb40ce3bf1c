"""The files of a dissection's site: pages, data, pictures, tables."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from mmxai.errors import ArgumentError
from mmxai.report.dissect import layers
from mmxai.report.dissect.budget import Plan
from mmxai.report.dissect.data import compact, script, write_data
from mmxai.report.dissect.exemplars import Exemplars
from mmxai.report.dissect.histograms import by_label, colour_class
from mmxai.report.dissect.outlines import FINE
from mmxai.report.dissect.records import CHUNK, Records, columns
from mmxai.report.dissect.sprites import COLUMNS, PER_SHEET, Images, shown_key, write_sheets
from mmxai.report.html import environment, share
from mmxai.report.units.folder import file_of

if TYPE_CHECKING:
    import pandas

    from mmxai.concepts import Concepts
    from mmxai.methods.dissect.results import Dissection, Dissections
    from mmxai.store.reader import Store

NOT_STATED = "no licence stated"


def first(found: Dissections) -> Dissection:
    return next(iter(found.sites.values()))


class Site:
    """Writes the files of a site."""

    def __init__(
        self,
        out: Path,
        found: Dissections,
        store: Store,
        concepts: Concepts | None,
        images: Images | None,
        title: str,
    ):
        self.out, self.found, self.store, self.concepts, self.images = out, found, store, concepts, images
        self.title, self.colours = title, layers.colours_of(found.sites)
        self.unstated = 0
        self._tables: set[str] = set()
        self._licences: list[str] = []

    def size(self, sample: int) -> tuple[int, int]:
        size = self.store.samples[sample].size
        if size is None:
            raise ArgumentError(
                f"sample {sample}: got no size of a picture, expected the store of a dissection"
            )
        return size

    def table(self, site: str, frame: pandas.DataFrame) -> None:
        folder = self.out / "tables"
        folder.mkdir(exist_ok=True)
        frame.to_csv(folder / f"{file_of(site)}.csv", index=False, float_format="%.6g")
        frame.to_json(folder / f"{file_of(site)}.json", orient="split", index=False, double_precision=6)
        self._tables.add(site)

    def static(self) -> None:
        """Pages and the script, before anything that grows with units."""
        found = self.found
        shared = {"title": self.title, "licence": None if self.concepts is None else self.concepts.licence}
        code = resources.files("mmxai.report").joinpath("templates/dissect.js").read_bytes()
        (self.out / "pages.js").write_bytes(code)
        index = environment().get_template("dissect_index.html").render(
            **shared, up="", figures=self._figures(), about=found.about, rows=[
                row | {"table": f"tables/{file_of(row['site'])}" if row["site"] in self._tables else None}
                for row in layers.table(found.sites)
            ],
            controls=layers.controls_of(found.sites), categories=self._categories(),
            plots=layers.plots(found.sites, self.colours), file_of=file_of, notes=found.notes,
            level=first(found).level,
        )  # fmt: skip
        (self.out / "index.html").write_text(index, encoding="utf-8")
        unit = environment().get_template("dissect_unit.html").render(**shared, up="")
        (self.out / "unit.html").write_text(unit, encoding="utf-8")
        (self.out / "sites").mkdir()
        for number, (name, one) in enumerate(found.sites.items()):
            page = environment().get_template("dissect_site.html").render(
                **shared, up="../", site=number, name=name, figures=self._site_figures(one), one=one,
                labels=Markup(by_label(one.by_category(), self.colours)), categories=self._categories(one),
                table=f"tables/{file_of(name)}" if name in self._tables else None,
            )  # fmt: skip
            (self.out / "sites" / f"{file_of(name)}.html").write_text(page, encoding="utf-8")

    def used(self, held: Mapping[str, Exemplars], shown: int) -> int:
        """Bytes of all but the pictures."""
        total = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        for name, one in held.items():
            found = self.found.sites[name]
            number = {int(s): 999_999 for s in one.sample.ravel() if s >= 0}
            records = Records(found, one, number, shown)
            total += sum(len(script("data/0/0000", chunk)) for chunk in records.chunks())
            total += len(script("data/0/index", columns(found)))
        return total + len(script("data/site", self._manifest(None)))

    def pictures(self, chosen: Plan, progress: Callable[[str], object]) -> None:
        own = [self._licence(sample) for sample in chosen.samples]
        self._licences = list(dict.fromkeys(licence or NOT_STATED for licence in own))
        place = {licence: k for k, licence in enumerate(self._licences)}
        self.unstated = sum(not licence for licence in own)
        numbers = [place[licence or NOT_STATED] for licence in own]
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if done % 64 == 0:
                progress(f"{done * PER_SHEET:,} of {len(own):,} pictures")

        progress(f"{len(own):,} pictures")
        write_sheets(self.out, self.store, chosen.samples, self.images, chosen.sheets, numbers, step)
        with open(self.out / "licences.csv", "w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["picture", "licence"])
            for sample, licence in zip(chosen.samples, own, strict=True):
                lines.writerow([shown_key(self.store.samples[sample]), licence or NOT_STATED])
        write_data(self.out, "data/site", self._manifest(chosen))

    def units(self, site: str, held: Exemplars, chosen: Plan) -> None:
        number = list(self.found.sites).index(site)
        places = {sample: k for k, sample in enumerate(chosen.samples)}
        found = self.found.sites[site]
        write_data(self.out, f"data/{number}/index", columns(found))
        for k, chunk in enumerate(Records(found, held, places, chosen.shown).chunks()):
            write_data(self.out, f"data/{number}/{k}", chunk)

    def _licence(self, sample: int) -> str | None:
        return None if self.concepts is None else self.concepts.picture_licence(sample)

    def _manifest(self, chosen: Plan | None) -> dict[str, Any]:
        one = first(self.found)
        place = {name: k for k, name in enumerate(self.colours)}
        return {
            "sites": [self._site(name, one) for name, one in self.found.sites.items()],
            "concepts": [[c.name, place[c.category]] for c in one.concepts],
            "categories": list(self.colours),
            "licences": self._licences,
            "chunk": CHUNK,
            "sheet": None if chosen is None or self.images is None
            else {"side": chosen.sheets.side, "columns": COLUMNS, "pictures": PER_SHEET},
            "per_sheet": PER_SHEET,
        }  # fmt: skip

    def _site(self, name: str, one: Dissection) -> dict[str, Any]:
        shape = re.fullmatch(r"module\.(\d+)x(\d+)", self.store[name].space)
        return {
            "name": name, "file": file_of(name), "kind": one.kind, "units": one.units, "level": one.level,
            "confidence": one.confidence, "fine": FINE if one.mode == "bilinear" else 1,
            "least": one.min_fired, "grid": None if shape is None else [int(n) for n in shape.groups()],
            "controls": [[c.name, compact(c.level())] for c in one.controls.values()],
        }  # fmt: skip

    def _categories(self, one: Dissection | None = None) -> list[tuple[str, str]]:
        """Names with their colours; of one site those that it has."""
        own = None if one is None else one.by_category()
        return [(c, colour_class(k)) for c, k in self.colours.items() if own is None or own[c]]

    def _figures(self) -> dict[str, str]:
        sites, one = self.found.sites.values(), first(self.found)
        labels = {int(k) for d in sites for k in d.label[d.detectors()]}
        return {
            ("held-out " if one.held_out else "") + "pictures": f"{one.scored.pictures:,}",
            "concepts": f"{len(one.concepts):,}",
            "layers": f"{len(self.found.sites):,}",
            "units": f"{sum(d.units for d in sites):,}",
            "detectors": f"{sum(int(d.detectors().sum()) for d in sites):,}",
            "labels they have": f"{len(labels):,}",
        }

    def _site_figures(self, one: Dissection) -> dict[str, str]:
        shown = {
            "units": f"{one.units:,} {one.kind}s", "detectors": f"{int(one.detectors().sum()):,}",
            "labels they have": f"{one.unique():,}",
            ("held-out " if one.held_out else "") + "pictures": f"{one.scored.pictures:,}",
            "dead, rare": f"{int(one.dead.sum()):,}, {int(one.rare.sum()):,}",
        }  # fmt: skip
        for name, c in one.controls.items():
            shown[f"{name}: detectors"] = f"{c.detectors(one.level):,} of {c.unique(one.level):,} labels"
        if one.excluded:
            shown["cells left out"] = share(one.excluded)
        return shown
