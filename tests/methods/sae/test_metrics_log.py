"""The log goes on where a checkpoint stands; trackers are sent the same figures, or refused by name."""

import json
import sys
from types import SimpleNamespace

import pytest

from mmxai.errors import ArgumentError
from mmxai.methods.sae.metrics_log import StepLog, check_trackers, open_logs


def test_lines_past_the_checkpoint_are_dropped(tmp_path):
    log = StepLog(tmp_path / "a/metrics.jsonl", 0)
    for step in (10, 20, 30):
        log.write({"step": step, "loss": 1 / 3})
    with open(log.path, "a") as file:
        file.write('{"step": 40, "lo')  # cut off by a crash
    again = StepLog(log.path, 20)
    again.write({"step": 30, "loss": 0.5})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[0]["loss"] == 1 / 3 and lines[2]["loss"] == 0.5


def test_trackers_get_what_the_file_gets(tmp_path, monkeypatch):
    sent = []
    board = SimpleNamespace(
        SummaryWriter=lambda folder, purge_step: SimpleNamespace(
            add_scalar=lambda name, value, step: sent.append(("board", name, value, step)),
            close=lambda: sent.append("closed"),
        )
    )
    run = SimpleNamespace(
        log=lambda entry, step: sent.append(("wandb", entry, step)), finish=lambda: sent.append("finished")
    )
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    ids = []
    wandb = SimpleNamespace(init=lambda **options: (ids.append(options["id"]), run)[1])
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logs = open_logs(tmp_path / "t.0.x", 0, ("tensorboard", "wandb"))
    for log in logs:
        log.write({"step": 6, "fvu": 0.25})
        log.close()
    assert ("board", "fvu", 0.25, 6) in sent and ("wandb", {"step": 6, "fvu": 0.25}, 6) in sent
    assert {"closed", "finished"} <= {s for s in sent if isinstance(s, str)}
    assert (tmp_path / "t.0.x/metrics.jsonl").exists()
    for step in (6, 0):
        open_logs(tmp_path / "t.0.x", step, ("wandb",))
    assert ids[0] == ids[1] != ids[2]  # resumed; begun anew


def test_what_is_absent_or_unknown_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ArgumentError, match="pip install wandb"):
        check_trackers(("wandb",))
    with pytest.raises(ArgumentError, match="mlflow"):
        check_trackers(("mlflow",))
