# mypy: allow-untyped-defs, allow-incomplete-defs
"""What the GPU kernels take of a GPU, read from machine code compiled here, with or without one.

`python -m mmxai.kernels._resources [80 90 100]` prints registers and stack of every variant; a stack is what
did not fit in registers and went to memory. Triton's kernels are compiled for the variant a launch would
compile, and read by the cuobjdump that Triton carries; csrc/cuda by nvcc where it is found, in a checkout.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = (80, 90, 100)  # Ampere, Hopper, Blackwell
_POINTERS = ("*i32", "*i16", "*i16", "*i8")
_LAYOUT = {
    "n": "i32", "width": "i32", "begin": "i32", "tokens": "i32",
    "batch_stride": "i64", "token_stride": "i64", "value_stride": "i64",
}  # fmt: skip
_LOOSE = (
    "n",
    "begin",
    "depth",
    "row0",
    "seen",
    "k",
    "blocks",
    "groups",
    "units",
    "cells",
    "grid_rows",
    "grid_cols",
    "together",
    "targets",
)  # any number, where others divide by 16


@dataclass(frozen=True)
class Resources:
    """One kernel for one architecture; `stack` bytes a thread."""

    kernel: str
    variant: str
    arch: int
    registers: int
    stack: int


def triton_variants() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int]]:
    """(name, kernel, types of its arguments, its constants, warps)."""
    from mmxai.kernels.capture import _triton as host
    from mmxai.kernels.capture._passes import room
    from mmxai.kernels.capture._triton_merge import fold, select
    from mmxai.kernels.capture._triton_tiles import capture_tiles, mend, row_scales
    from mmxai.kernels.topk_rows._triton import best

    warps = host.SMALL["num_warps"]
    figures = {"moments": "*fp64", "extremes": "*fp32", "counts": "*i32"}
    names = ("float32", "bfloat16", "float16", "int8", "none")
    for source, target in ((1, 1), (0, 1), (0, 0), (2, 2), (1, 3), (0, 4)):
        kinds = {"SOURCE": source, "TARGET": target}
        for bottom in (False, True):
            tile = {
                "UNROLL": host.unroll(target, bottom),
                "LANES": host.LANES,
                "COLS": host.COLS,
                "ROOM": room(16),
            }
            gates = {
                f"{side}{part}": kind
                for side in ("top", "bottom")
                for part, kind in (("", "*fp32"), ("_counts", "*i32"), ("_found", "*i32"))
            }
            types = {
                "x": _POINTERS[source], "index": "*i64", "out": "" if target == 4 else _POINTERS[target],
                "scales": "*fp32" if target == 3 else "", "overflow": "*i64", **gates, **figures, **_LAYOUT,
                "depth": "i32",
            }  # fmt: skip
            if not bottom:
                types |= dict.fromkeys(("bottom", "bottom_counts", "bottom_found", "index"), "")
            name = f"{names[source]}-{names[target]}{' bottom, index' if bottom else ''}"
            yield name, capture_tiles, types, {**kinds, **tile, "FLAT": not bottom, "STATS": True}, warps
    common = {"x": "*i16", "index": "*i64", **_LAYOUT}
    bf16 = {"SOURCE": 1, "TARGET": 1, "FLAT": False}
    types = {**common, "overflow": "*i64", "tallies": "*i64", **figures, "depth": "i32"}
    yield "bfloat16", mend, types, {**bf16, "LANES": 16, "COLS": 64}, warps
    types = {**common, "scales": "*fp32"}
    yield "bfloat16", row_scales, types, {"SOURCE": 1, "FLAT": False, "COLS": 4096}, warps
    types = {**figures, "blocks": "i32", "width": "i32", "state_moments": "*fp64", "state_extremes": "*fp32"}
    types |= {"tallies": "*i64", "seen": "i64", "cursor": "*i64"}
    yield "", fold, types, {"DEPTH": 32, "COLS": 32}, warps
    for k in (16, 128):
        for samples in (False, True):
            types = {
                **common, "samples": "*i64" if samples else "", "counts": "*i32", "found": "*i32",
                "values": "*fp32", "ids": "*i64", "owner": "*i64" if samples else "", "row0": "i64",
                "cursor": "", "k": "i32",
            }  # fmt: skip
            constants = {
                **bf16,
                "SIGN": -1,
                "K": k,
                "ROOM": room(k),
                "UNROLL": host.UNROLL,
                "LANES": host.LANES,
            }
            constants |= {"STEP": max(64, k), "COLS": host.COLUMNS}
            yield f"k={k}{' samples' if samples else ''}", select, types, constants, 1
    for k in (64, 256):
        types = {
            "x": "*i16",
            "bias": "",
            "values": "*i16",
            "indices": "*i32",
            "width": "i32",
            "row_stride": "i64",
            "k": "i32",
        }
        yield f"k={k}", best, types, {"KIND": 1, "MAGNITUDE": True, "K": k, "STEP": 1024}, 4
    yield from _code_variants()


def _code_variants() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int]]:
    """Those of the ops on codes, for rows of 4096."""
    from mmxai.kernels.adam_rows._triton import adam
    from mmxai.kernels.code_gradients._triton import latent_gradients
    from mmxai.kernels.decode_codes._triton import decode
    from mmxai.kernels.decode_error._triton import error_rows
    from mmxai.kernels.select_above._triton import above

    floats = (
        "values table bias base target twice errors d_values d_pre x project g_dec g_enc g_bias w g m v out"
    )
    types = dict.fromkeys(floats.split(), "*fp32") | {"indices": "*i32", "offsets": "*i64", "width": "i32"}
    yield "", decode, types, {"BLOCK": 1024}, 4
    errors = types | {"starts": "*i32", "losses": "*fp64", "groups": "i32"}
    yield "", error_rows, errors, {"BLOCK": 4096}, 8
    latents = types | {"rows": "*i64", "starts": "*i64", "group": "*i64", "squares": "*fp64", "groups": "i32"}
    yield (
        "",
        latent_gradients,
        latents | {"out_width": "i32", "in_width": "i32"},
        {"OUT": 4096, "IN": 4096},
        8,
    )
    chosen = types | {"cuts": "*fp32", "counts": "*i64", "ends": "*i64", "one": "fp32", "row_stride": "i64"}
    for writes in (False, True):
        given = chosen if writes else chosen | dict.fromkeys(("ends", "values", "indices"), "")
        yield "writes" if writes else "counts", above, given, {"STEP": 1024}, 4
    yield from _count_variants()
    yield from _lens_variants()
    numbers = dict.fromkeys(("rate", "old1", "new1", "old2", "new2", "eps", "root", "kept"), "fp32")
    yield "", adam, types | numbers | {"scale": "*fp32"}, {"UNIT": True, "BLOCK": 4096}, 8


def _count_variants() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int]]:
    """Those of network dissection, for bfloat16 rows."""
    from mmxai.kernels.bilinear_counts._triton import count_blocks
    from mmxai.kernels.log_products._triton import log_sums
    from mmxai.kernels.mask_counts._triton import count_cells, count_entries

    types = {"threshold": "*fp32", "columns": "*i32", "pixels": "*i32", "sums": "*i64", "offsets": "*i64"}
    types |= {"units": "i32", "width": "i32", "row_stride": "i64"}
    yield "", count_cells, types | {"x": "*i16", "cells": "i32"}, {"KIND": 1, "ROWS": 16, "UNITS": 256}, 4
    entries = {"values": "*fp32", "indices": "*i32", "rows": "*i64", "n": "i64"}
    yield "", count_entries, types | entries, {"ENTRIES": 256}, 4
    blocks = {"x": "*i16", "row_starts": "*i32", "col_starts": "*i32", "row_weights": "*fp32"}
    blocks |= {
        "col_weights": "*fp32",
        "starts": "*i64",
        "bits": "*u8",
        "grid_rows": "i32",
        "grid_cols": "i32",
    }
    yield "", count_blocks, types | blocks, {"KIND": 1, "UNITS": 32}, 4
    sums = dict.fromkeys(("p", "weights", "offsets", "out"), "*fp32") | {"tops": "*i32", "row_stride": "i64"}
    sums |= dict.fromkeys(("words", "k", "together"), "i32")
    for softmax in (False, True):
        given = sums | {"norms": "*fp32" if softmax else "", "scale": "fp32"}
        yield "softmax" if softmax else "", log_sums, given, {"WORDS": 512}, 4


def _lens_variants() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int]]:
    """Those of the logit lens, of the largest 5 and 256, with and without all that may be asked for."""
    from mmxai.kernels.unembed_topk._triton import STEP, lens_rows

    types = dict.fromkeys(("products", "bias", "floors"), "*fp32") | dict.fromkeys(
        ("scale", "softcap"), "fp32"
    )
    types |= dict.fromkeys(("finals", "keys", "ranks"), "*i64") | dict.fromkeys(("width", "first"), "i32")
    types |= {"sums": "*fp64", "targets": "i32"}
    for k in (8, 256):
        for whole in (False, True):
            given = types if whole else types | {"bias": ""}
            kinds = {"COMPARED": whole, "CAPPED": whole, "K": k, "STEP": STEP}
            yield f"k={k}{' all' if whole else ''}", lens_rows, given, kinds, 8


def triton_resources(arch: int) -> Iterator[Resources]:
    """Compiles every Triton kernel for that architecture. Not under Triton's interpreter."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for name, kernel, types, constants, warps in triton_variants():
        types = {argument: kind for argument, kind in types.items() if argument in kernel.arg_names}
        fixed = {**constants, **{argument: None for argument, kind in types.items() if not kind}}
        if "value_stride" in types:
            fixed["value_stride"] = 1
        order = kernel.arg_names
        aligned = [a for a in order if a not in fixed and a not in _LOOSE and types[a] != "fp32"]
        source = ASTSource(
            fn=kernel,
            signature={a: "constexpr" if a in fixed else types[a] for a in order},
            constexprs={(order.index(a),): value for a, value in fixed.items()},
            attrs={(order.index(a),): [["tt.divisibility", 16]] for a in aligned},
        )
        options = {"num_warps": warps, "enable_fp_fusion": True}
        cubin = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm["cubin"]
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            shown = _output([str(tool), "--dump-resource-usage", file.name])
        registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", shown)[0])
        yield Resources(kernel.__name__, name, arch, registers, stack)


def nvcc_resources(arch: int) -> Iterator[Resources]:
    """Compiles csrc/cuda for that architecture; nothing where there is no nvcc or no checkout."""
    compiler, folder = shutil.which("nvcc"), Path(__file__).parents[2] / "csrc" / "cuda"
    for source in sorted(folder.glob("*.cu")) if compiler else ():
        with tempfile.TemporaryDirectory() as scratch:
            command = [
                str(compiler),
                "-O3",
                "-std=c++17",
                "-Xptxas=-v",
                "-c",
                str(source),
                "-o",
                f"{scratch}/o",
            ]
            said = _output([*command, f"-gencode=arch=compute_{arch},code=sm_{arch}"])
        found = re.findall(
            r"Function properties for (\S+)\s+(\d+) bytes stack.*?Used (\d+) registers", said, re.S
        )
        for name, stack, registers in found:
            yield Resources(source.name, name, arch, int(registers), int(stack))


def _output(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout + result.stderr


def main(arguments: list[str]) -> None:
    tools = [a for a in ("triton", "nvcc") if a in arguments] or ["triton", "nvcc"]
    for arch in [int(a) for a in arguments if a.isdigit()] or ARCHITECTURES:
        for tool in tools:
            for r in (triton_resources if tool == "triton" else nvcc_resources)(arch):
                print(
                    f"sm_{r.arch} {r.kernel} [{r.variant}]: {r.registers} registers, {r.stack} stack",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:])
