"""Kill -9 at random moments loses nothing and repeats nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import mmxai
from mmxai.store.verify import verify

DRIVER = Path(__file__).with_name("kill_driver.py")
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def drive(folder, stores, kills, seed=0):
    done = subprocess.run(
        [sys.executable, DRIVER, folder, stores, str(kills), str(seed)],
        env=ENV, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def files_of(path):
    return {
        str(f.relative_to(path)): f.read_bytes()
        for f in sorted(path.rglob("*"))
        if f.is_file() and (f.name.startswith("c.") or f.suffix in (".jsonl", ".safetensors"))
    }


def assert_whole(path, straight, samples):
    assert files_of(path) == files_of(straight)
    assert not [f for f in path.rglob(".*") if f.is_file()], "staged files of the dead are cleaned up"
    report = verify(path)
    assert not report.problems, report
    with mmxai.open_store(path) as store:
        table = store.rows["vision"]
        pairs = np.stack([table.sample.numpy(), table.position.numpy()])
        assert len(np.unique(pairs, axis=1).T) == pairs.shape[1] == 9 * samples


def test_a_hundred_kills_two_writers_at_once(clip_folder, tmp_path):
    straight = Path(drive(clip_folder, tmp_path / "straight", 0)["stores"][0])
    result = drive(clip_folder, tmp_path / "killed", 100)
    assert sum(result["kills"]) == 100
    assert min(result["kills"][:-1], default=100) > 10, "kills must fall into the work"
    for store in result["stores"]:
        assert_whole(Path(store), straight, 240)


@pytest.mark.slow
def test_the_real_command_is_killed_five_times(clip_folder, tmp_path):
    """Through the installed command line, killed after it has begun to write."""
    captions = tmp_path / "captions.txt"
    colours = ("red", "green", "blue", "yellow")
    captions.write_text("\n".join(f"a {c} circle above a {d} square" for c in colours for d in colours) * 40)
    straight, killed = tmp_path / "straight.zarr", tmp_path / "killed.zarr"

    def command(store):
        return [
            sys.executable, "-m", "mmxai.cli", "harvest", str(clip_folder), str(captions),
            "--store", str(store), "--sites", "text.*.resid_post", "text.0.mlp_post",
            "--samples-per-part", "8", "--batch-size", "4",
        ]  # fmt: skip

    subprocess.run(command(straight), env=ENV, check=True, capture_output=True)
    draw = random.Random(0)
    kills = 0
    for _ in range(5):
        process = subprocess.Popen(
            command(killed), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        staged = killed / "text.0.mlp_post"
        deadline = time.monotonic() + 60
        before = len(list(killed.glob("mmxai/commits/*.json")))
        # Wait until this process has committed something, so that the kill falls in the midst of its work.
        while time.monotonic() < deadline and process.poll() is None:
            if staged.is_dir() and len(list(killed.glob("mmxai/commits/*.json"))) > before:
                break
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 3, "the harvest ended before it could be killed; make the data larger"
    done = subprocess.run(command(killed), env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files_of(killed) == files_of(straight)
    assert not verify(killed).problems
