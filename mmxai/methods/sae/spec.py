"""What an SAE is beside its weights: a JSON document (FORMAT.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from mmxai.errors import ArgumentError, SAEFormatError

Arch = Literal["topk", "batchtopk", "jumprelu", "relu", "matryoshka"]
ARCHES: tuple[Arch, ...] = ("topk", "batchtopk", "jumprelu", "relu", "matryoshka")
WITH_K = ("topk", "batchtopk", "matryoshka")


@dataclass(frozen=True)
class SAESpec:
    """One site in and out: an SAE. Other sites out: a transcoder. Several in and the same out: a crosscoder.

    Several sites are concatenated in the order named, D and E are the sums of their widths.
    """

    arch: Arch
    latents: int
    """M."""
    sites_in: tuple[str, ...]
    widths_in: tuple[int, ...]
    sites_out: tuple[str, ...] = ()
    """Not given: `sites_in`."""
    widths_out: tuple[int, ...] = ()
    k: int | None = None
    """Active latents a row (batchtopk, matryoshka: on average over the training batches)."""
    prefixes: tuple[int, ...] = ()
    """Matryoshka: the nested dictionaries' sizes, rising, the last one M."""
    row_norm: Literal["none", "layer_norm"] = "none"
    """layer_norm: each row less its mean, over its standard deviation (n - 1 in the denominator) + 1e-5,
    before anything else; on the way out times that deviation, plus that mean. For SAEs of other libraries,
    not trained here."""
    skip: bool = False
    """A linear path from input to output beside the latents (`W_skip`)."""
    centred: bool | None = None
    """The encoder sees the input less `b_dec`. Not given: where the sites out are the sites in."""
    scale: tuple[float, ...] = ()
    """What each input site is multiplied by before the encoder. Not given: 1."""
    scale_out: tuple[float, ...] = ()
    """What each output site's target was multiplied by; `decode` divides by it. Not given: `scale` where the
    sites out are the sites in, else 1."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Of what it was trained on: model, data, selection, as JSON."""
    notes: str = ""

    def __post_init__(self) -> None:
        def given(name: str, default: Any) -> None:
            value = getattr(self, name)
            value = default if value in ((), None) else value
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)

        for name in ("sites_in", "widths_in", "prefixes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        given("sites_out", self.sites_in)
        same = self.sites_out == self.sites_in
        given("widths_out", self.widths_in if same else ())
        given("centred", same)
        given("scale", (1.0,) * len(self.sites_in))
        given("scale_out", self.scale if same else (1.0,) * len(self.sites_out))
        for problem in self._problems():
            raise ArgumentError(f"SAE: got {problem}")

    def _problems(self) -> list[str]:
        found = []
        if self.arch not in ARCHES:
            found.append(f"architecture {self.arch!r}, expected one of {', '.join(ARCHES)}")
        if not isinstance(self.latents, int) or self.latents < 1:
            found.append(f"{self.latents!r} latents, expected an integer of at least 1")
            return found
        for name in ("in", "out"):
            sites, widths = getattr(self, f"sites_{name}"), getattr(self, f"widths_{name}")
            scales = self.scale if name == "in" else self.scale_out
            if not sites or not len(sites) == len(widths) == len(scales):
                found.append(f"sites {sites}, widths {widths}, scales {scales}, expected as many of each")
            if any(width < 1 for width in widths):
                found.append(f"widths {widths}, expected positive ones")
            if not all(0 < s < float("inf") for s in scales):
                found.append(f"scales {scales}, expected positive finite numbers")
        if self.arch in WITH_K:
            if self.k is None or not 1 <= self.k <= self.latents:
                found.append(f"k = {self.k} of {self.latents:,} latents, expected 1 <= k <= {self.latents:,}")
        elif self.k is not None:
            found.append(f"k = {self.k}, expected none for {self.arch}, whose sparsity is a penalty's")
        if self.arch == "matryoshka":
            rising = all(a < b for a, b in zip(self.prefixes, self.prefixes[1:], strict=False))
            if not self.prefixes or self.prefixes[0] < 1 or not rising or self.prefixes[-1] != self.latents:
                found.append(f"prefixes {self.prefixes}, expected rising ones that end with {self.latents:,}")
        elif self.prefixes:
            found.append(f"prefixes {self.prefixes}, expected none for {self.arch}")
        if self.row_norm not in ("none", "layer_norm") or (self.row_norm != "none" and self.kind != "sae"):
            found.append(
                f"row_norm {self.row_norm!r} for a {self.kind}, expected 'none' (SAE: or 'layer_norm')"
            )
        if self.centred and self.width_in != self.width_out:
            found.append(f"centred, {self.width_in} wide in and {self.width_out} out, expected one width")
        return found

    @property
    def width_in(self) -> int:
        """D."""
        return sum(self.widths_in)

    @property
    def width_out(self) -> int:
        """E."""
        return sum(self.widths_out)

    @property
    def kind(self) -> Literal["sae", "transcoder", "crosscoder"]:
        if self.sites_in != self.sites_out:
            return "transcoder"
        return "sae" if len(self.sites_in) == 1 else "crosscoder"

    @property
    def needs_input(self) -> bool:
        """Whether `decode` needs the input beside the codes."""
        return self.skip or self.row_norm != "none"

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site that training reads, once."""
        return tuple(dict.fromkeys(self.sites_in + self.sites_out))

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], path: Any = "spec") -> SAESpec:
        """The spec that `to_json` wrote; SAEFormatError where it is not one."""
        names = {f.name for f in fields(cls)}
        missing = sorted({"arch", "latents", "sites_in", "widths_in"} - set(value))
        unknown = sorted(set(value) - names)
        if missing or unknown:
            raise SAEFormatError(
                f"{path}: got an SAE without {missing} and with unknown {unknown}, expected the fields of "
                "FORMAT.md; was it written by a newer version?"
            )
        try:
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
            return cls(**given)
        except (ArgumentError, TypeError) as error:
            raise SAEFormatError(f"{path}: {error}") from error
