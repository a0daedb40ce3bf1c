"""A worker's share of the work: `--part-of i/n`, torchrun's variables, or a SLURM array."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mmxai.errors import ArgumentError


def share(part_of: str | None, env: Mapping[str, str] | None = None) -> tuple[int, int]:
    """(rank, world) from `part_of`, torchrun's variables, or a SLURM array; (0, 1) from none of them."""
    env = os.environ if env is None else env
    if part_of is not None:
        text = part_of
        rank, slash, world = text.partition("/")
    elif "RANK" in env and "WORLD_SIZE" in env:
        text = f"{env['RANK']}/{env['WORLD_SIZE']}"
        rank, slash, world = env["RANK"], "/", env["WORLD_SIZE"]
    elif "SLURM_ARRAY_TASK_ID" in env:
        # SLURM arrays may start at 1 or be numbered with gaps; MIN and COUNT turn them into ranks.
        first = int(env.get("SLURM_ARRAY_TASK_MIN", "0"))
        step = int(env.get("SLURM_ARRAY_TASK_STEP", "1"))
        rank, slash = str((int(env["SLURM_ARRAY_TASK_ID"]) - first) // step), "/"
        world = env.get("SLURM_ARRAY_TASK_COUNT", "")
        text = f"{rank}/{world} from SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT"
    else:
        return 0, 1
    if not (slash and rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ArgumentError(f"share of the work: got {text!r}, expected i/n with 0 <= i < n, e.g. 0/4")
    return int(rank), int(world)
