"""Kill -9 at random moments, and Ctrl-C: the same bytes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmxai.errors import CheckpointError
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.methods.dissect.resume import State, held
from mmxai.store import open_store
from tests.methods.dissect.stores import SITE, Maps, make

ROOT = Path(__file__).parents[3]


def drive(*args):
    done = subprocess.run(
        [sys.executable, "-m", "tests.methods.dissect.kill_driver", *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_again_and_again(tmp_path):
    make(tmp_path / "acts.zarr", pictures=24)
    drive(tmp_path / "acts.zarr", tmp_path / "straight", 0, 0)
    told = drive(tmp_path / "acts.zarr", tmp_path / "killed", 12, 1)
    assert told["kills"] >= 6 and len({row for row in told["begun"] if row}) >= 3, (
        f"hardly interrupted: {told}"
    )
    for name in ("dissect.json", "dissect.safetensors"):
        straight, killed = (tmp_path / run / name for run in ("straight", "killed"))
        assert straight.read_bytes() == killed.read_bytes(), name
    left = {f.name for f in (tmp_path / "killed/state").iterdir()}
    assert left == {f.name for f in (tmp_path / "straight/state").iterdir()}
    assert not [name for name in left if name.endswith(".tmp")]


def test_ctrl_c_saves_and_ends(tmp_path):
    x = make(tmp_path / "a")
    config = DissectConfig(sites=(SITE,), quantile=0.1, bootstrap=0)

    sent = []

    class Interrupts(Maps):
        def labels(self, sample):
            if sample == 5 and not sent:
                sent.append(sample)
                os.kill(os.getpid(), signal.SIGINT)
            return super().labels(sample)

    with open_store(tmp_path / "a") as store:
        with pytest.raises(KeyboardInterrupt):
            dissect(store, Interrupts(len(x)), config, state=tmp_path / "state")
        assert [f for f in (tmp_path / "state").iterdir() if "chosen" in f.name]
        straight = dissect(store, Maps(len(x)), config)[SITE]
        again = dissect(store, Maps(len(x)), config, state=tmp_path / "state")[SITE]
        assert (again.scored.table == straight.scored.table).all()


def test_states_tell_what_is_wrong(tmp_path):
    state = State(tmp_path / "s", {"a": 1})
    assert state.read("x") is None
    (tmp_path / "s/x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        state.read("x")
    (tmp_path / "s/run.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        State(tmp_path / "s", {"a": 1})
    with held(tmp_path / "s"), pytest.raises(CheckpointError, match="another process"), held(tmp_path / "s"):
        pass
