"""The SAE itself: weights, encoding, decoding. A transcoder or crosscoder has other sites (`SAESpec`).

With x scaled (`spec.scale`) and, where `spec.centred`, less `b_dec`:

    pre = x @ W_enc.T + b_enc                              [N, M]
    codes = the k largest of relu(pre)                     topk (Gao et al. 2024, arXiv:2406.04093)
            relu(pre) where pre > threshold                every other architecture
    y = (codes @ W_dec + b_dec (+ x @ W_skip.T)) / scale_out
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.codes import Codes
from mmxai.kernels.decode_codes import decode_codes
from mmxai.kernels.topk_product import quicker, topk_product
from mmxai.methods.sae import files
from mmxai.methods.sae.select import select, topk_codes
from mmxai.methods.sae.spec import SAESpec
from mmxai.types import Batch

ROW_NORM_EPS = 1e-5  # on the way in alone, as SAELens and ViT-Prisma have it
BLOCK_BYTES = 64 << 20  # of pre-activations at a time


class SAE:
    """Weights and how codes are chosen.

    W_enc `[M, D]`, b_enc `[M]`, W_dec `[M, E]` (row m is latent m's direction), b_dec `[E]`, threshold `[M]`
    or None, W_skip `[E, D]` or None: of one floating dtype, on one device.
    """

    def __init__(
        self,
        spec: SAESpec,
        *,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_dec: torch.Tensor,
        threshold: torch.Tensor | None = None,
        W_skip: torch.Tensor | None = None,
    ):
        self.spec = spec
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = W_enc, b_enc, W_dec, b_dec
        self.threshold, self.W_skip = threshold, W_skip
        self._check()

    @classmethod
    def zeros(cls, spec: SAESpec, device: torch.device | str = "cpu") -> SAE:
        """All weights 0, float32; `init.initialise` gives them their first values."""
        made = {name: torch.zeros(shape, device=device) for name, shape in shapes(spec).items()}
        return cls(spec, **made)

    @property
    def device(self) -> torch.device:
        return self.W_enc.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_enc.dtype

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by name, those that there are."""
        found = {name: getattr(self, name) for name in shapes(self.spec)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SAE:
        return SAE(self.spec, **{k: v.to(device=device, dtype=dtype) for k, v in self.tensors().items()})

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sites that go in, side by side: `[N, D]`, as they are stored (unscaled)."""
        return self._side_by_side(batch, self.spec.sites_in)

    def targets(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sites that come out: `[N, E]`, unscaled."""
        return self._side_by_side(batch, self.spec.sites_out)

    def encode(self, x: torch.Tensor | Batch) -> Codes:
        """The active latents of every row of `x` `[N, D]`, values float32. Rows are encoded in blocks."""
        return Codes.cat([self._codes(block) for block in self._blocks(x)])

    def encode_dense(self, x: torch.Tensor | Batch) -> torch.Tensor:
        """`encode` as float32 `[N, M]`, zeros where a latent is not active."""
        return self.encode(x).dense()

    def decode(self, codes: Codes | torch.Tensor, x: torch.Tensor | Batch | None = None) -> torch.Tensor:
        """Codes (or their dense form `[N, M]`) as activations float32 `[N, E]`, in the sites' own units.

        `x`: the input, which an SAE with a skip path or `row_norm` needs too (`spec.needs_input`).
        """
        if self.spec.needs_input and x is None:
            raise ArgumentError("decode: got no x, expected the input: this SAE has a skip path or row_norm")
        W_dec = self.W_dec.float().contiguous()
        if isinstance(codes, torch.Tensor):
            if codes.ndim != 2 or codes.shape[1] != self.spec.latents:
                raise ArgumentError(
                    f"decode: got codes of shape {tuple(codes.shape)}, expected (N, {self.spec.latents})"
                )
            out = torch.addmm(self.b_dec.float(), codes.float(), W_dec)
        elif codes.width != self.spec.latents:
            raise ArgumentError(f"decode: got codes {codes.width} wide, expected {self.spec.latents} latents")
        else:
            out = decode_codes(codes, W_dec, bias=self.b_dec.float())
        if self.W_skip is not None and x is not None:
            out += self._scaled(x).float() @ self.W_skip.float().T
        out /= self._each(self.spec.scale_out, self.spec.widths_out)
        if self.spec.row_norm != "none" and x is not None:
            mean, deviation = _moments(self._rows(x).float())
            out = out.mul_(deviation).add_(mean)
        return out

    def forward(self, x: torch.Tensor | Batch) -> torch.Tensor:
        """The reconstruction of `x` `[N, D]`, or the transcoder's output: float32 `[N, E]`."""
        return self.decode(self.encode(x), x if self.spec.needs_input else None)

    __call__ = forward

    def save(self, folder: str | Path) -> Path:
        """Write `sae.safetensors` and `sae.json` (FORMAT.md) to `folder`, which is made where absent."""
        return files.write(Path(folder), self.spec, self.tensors())

    def __repr__(self) -> str:
        s = self.spec
        ends = ", ".join(s.sites_in) + ("" if s.kind != "transcoder" else " -> " + ", ".join(s.sites_out))
        k = "" if s.k is None else f", k {s.k}"
        return f"SAE({s.arch} {s.kind} of {ends}: {s.width_in} -> {s.latents:,} latents{k}, {self.dtype})"

    def _blocks(self, x: torch.Tensor | Batch) -> tuple[torch.Tensor, ...]:
        """Rows scaled and centred, as many at a time as their pre-activations fit in BLOCK_BYTES."""
        x = self._scaled(x)
        if self.spec.centred:
            x = x - self.b_dec
        return x.split(max(1, BLOCK_BYTES // (4 * self.spec.latents)))

    def _codes(self, rows: torch.Tensor) -> Codes:
        k = self.spec.k
        if self.spec.arch == "topk" and k and self.dtype == torch.float32 and quicker(rows, self.W_enc, k):
            chosen = topk_product(rows.contiguous(), self.W_enc.contiguous(), k, bias=self.b_enc.contiguous())
            return topk_codes(*chosen, self.spec.latents)
        return select(self.spec, self.threshold, torch.addmm(self.b_enc, rows, self.W_enc.T).float())

    def _rows(self, x: torch.Tensor | Batch) -> torch.Tensor:
        x = self.inputs(x) if isinstance(x, Batch) else x
        if x.ndim != 2 or x.shape[1] != self.spec.width_in or not x.is_floating_point():
            raise ArgumentError(
                f"SAE: got {x.dtype} of shape {tuple(x.shape)}, expected rows (N, {self.spec.width_in}) of "
                f"{' + '.join(self.spec.sites_in)}"
            )
        return x.to(self.device)

    def _scaled(self, x: torch.Tensor | Batch) -> torch.Tensor:
        x = self._rows(x)
        if self.spec.row_norm != "none":
            mean, deviation = _moments(x.float())
            x = (x.float() - mean) / (deviation + ROW_NORM_EPS)
        x = x.to(self.dtype)
        if all(s == 1 for s in self.spec.scale):
            return x
        return x * self._each(self.spec.scale, self.spec.widths_in).to(x.dtype)

    def _each(self, scales: tuple[float, ...], widths: tuple[int, ...]) -> torch.Tensor:
        each = torch.tensor(scales, device=self.device)
        return each.repeat_interleave(torch.tensor(widths, device=self.device))

    def _side_by_side(self, batch: Mapping[str, torch.Tensor], sites: tuple[str, ...]) -> torch.Tensor:
        if missing := [s for s in sites if s not in batch]:
            raise ArgumentError(f"SAE: got a batch of {list(batch)}, expected {missing} in it")
        return batch[sites[0]] if len(sites) == 1 else torch.cat([batch[s] for s in sites], 1)

    def _check(self) -> None:
        for name, shape in shapes(self.spec).items():
            tensor = getattr(self, name)
            if tensor is None:
                raise ArgumentError(f"SAE: got no {name}, expected one of shape {shape} ({self.spec.arch})")
            if tuple(tensor.shape) != shape or not tensor.is_floating_point():
                raise ArgumentError(f"SAE: got {name} {tensor.dtype} {tuple(tensor.shape)}, expected {shape}")
            if tensor.dtype != self.dtype or tensor.device != self.device:
                raise ArgumentError(
                    f"SAE: got {name} {tensor.dtype} on {tensor.device}, W_enc {self.dtype} on "
                    f"{self.device}, expected one dtype and device"
                )
        for name in ("threshold", "W_skip"):
            if name not in shapes(self.spec) and getattr(self, name) is not None:
                raise ArgumentError(
                    f"SAE: got {name}, expected none for {self.spec.arch}, skip={self.spec.skip}"
                )


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each row, `[N, 1]`, for `row_norm`."""
    return x.mean(1, keepdim=True), x.std(1, keepdim=True)


def shapes(spec: SAESpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that an SAE of this spec has."""
    d, e, m = spec.width_in, spec.width_out, spec.latents
    found: dict[str, tuple[int, ...]] = {"W_enc": (m, d), "b_enc": (m,), "W_dec": (m, e), "b_dec": (e,)}
    if spec.arch not in ("topk", "relu"):
        found["threshold"] = (m,)
    if spec.skip:
        found["W_skip"] = (e, d)
    return found


def load_sae(folder: str | Path, device: torch.device | str = "cpu") -> SAE:
    """The SAE saved in `folder`; SAEFormatError where it is damaged."""
    spec, tensors = files.read(Path(folder), device)
    return SAE(spec, **tensors)
