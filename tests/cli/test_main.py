"""The shell around the verbs: help, typos, exit statuses, errors without a traceback."""

import os
import subprocess
import sys

import pytest

from mmxai.cli import VERBS, main


def run(*args, **kwargs):
    env = {**os.environ, "COLUMNS": "120", **kwargs.pop("env", {})}
    command = [sys.executable, "-m", "mmxai.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, env=env, **kwargs)


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb}" in out for verb in VERBS)


def test_no_verb_is_a_usage_error(capsys):
    assert main([]) == 2


def test_a_mistyped_verb_names_the_nearest(capsys):
    assert main(["harvets"]) == 2
    assert "did you mean 'mmxai harvest'?" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mmxai 0.")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    done = run(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"mmxai {verb}" in done.stdout


def test_errors_have_no_traceback():
    done = run("verify", "no-such-store.zarr")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no-such-store.zarr" in done.stderr


def test_a_mistyped_option_is_a_usage_error():
    done = run("verify", "x.zarr", "--quik")
    assert done.returncode == 2
    assert "--quick" in done.stdout + done.stderr


def test_shapes_writes_a_folder_once(tmp_path, capsys):
    args = ["shapes", str(tmp_path / "w"), "--pictures", "5", "--layout", "coco", "--split", "val"]
    assert main(args) == 0
    assert "5 pictures in" in capsys.readouterr().out
    assert len(list((tmp_path / "w/images").glob("*.png"))) == 5
    assert main(args) == 1
    assert "expected an empty or new folder" in capsys.readouterr().err
