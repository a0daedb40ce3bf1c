"""Kill -9 at random moments: the same weights and the same curve, to the last digit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.methods.sae.stores import make_store

DRIVER = Path(__file__).with_name("kill_driver.py")
ARCHES = ("topk", "batchtopk", "jumprelu")


def drive(*args):
    done = subprocess.run(
        [sys.executable, DRIVER, *map(str, args)], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def curve(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_killed_again_and_again(tmp_path):
    store = make_store(tmp_path / "acts.zarr")
    assert drive(store, tmp_path / "straight", 0, 0, *ARCHES)["begun"] == [[0, 0]]
    told = drive(store, tmp_path / "killed", 15, 1, *ARCHES)
    assert all(found == began for found, began in told["begun"]), "begun anew beside a checkpoint"
    inside = {began for _, began in told["begun"] if 0 < began < told["steps"]}
    assert told["kills"] >= 4 and len(inside) >= 2, f"hardly interrupted: {told}"
    for arch in ARCHES:
        straight, killed = (tmp_path / run / "t.0.x" / f"arch{arch}" for run in ("straight", "killed"))
        assert curve(straight) == curve(killed) and len(curve(killed)) > 10
        theirs = load_file(killed / "sae.safetensors")
        for name, tensor in load_file(straight / "sae.safetensors").items():
            assert torch.equal(tensor, theirs[name]), name
        assert (straight / "sae.json").read_text() == (killed / "sae.json").read_text()
    left = {str(f.relative_to(tmp_path / "killed")) for f in (tmp_path / "killed").rglob("*") if f.is_file()}
    files = {f"t.0.x/arch{a}/{f}" for a in ARCHES for f in ("sae.json", "sae.safetensors", "metrics.jsonl")}
    assert left == files | {"runs/t.0.x.safetensors", "runs/t.0.x.lock"}
    assert (killed / "sae.safetensors").stat().st_mode == (killed / "sae.json").stat().st_mode
