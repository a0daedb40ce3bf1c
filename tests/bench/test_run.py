"""Running cases: tests first, listing, JSON, and an installed package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmxai.bench import CannotRunError, Figure, Options
from mmxai.bench import run as running
from mmxai.bench.cases import CASES, load
from mmxai.bench.figures import RedTestsError
from mmxai.bench.gate import GREEN, INSTALLED, run_tests
from mmxai.bench.machine import PACKAGE
from mmxai.cli import main
from mmxai.errors import ArgumentError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake(monkeypatch):
    """A case whose tests and figures the test decides; counts what happened."""
    state = SimpleNamespace(tests=GREEN, value=2.0, ran=0, error=None, gpu=False)

    def gate(paths):
        if isinstance(state.tests, Exception):
            raise state.tests
        return state.tests

    def run(options):
        state.ran += 1
        if state.error:
            raise state.error
        return [Figure("fake_ratio", state.value, ">= 1", "measured", "floor")]

    monkeypatch.setitem(CASES, "fake", "a case of the tests")
    monkeypatch.setattr(running, "run_tests", gate)
    monkeypatch.setattr(
        running, "load", lambda name: SimpleNamespace(TESTS=("tests/x",), GPU=state.gpu, run=run)
    )
    return state


def test_nothing_is_timed_on_red(fake, tmp_path, capsys):
    fake.tests = RedTestsError("red")
    assert main(["bench", "fake", "--json", str(tmp_path / "f.json")]) == 1
    assert fake.ran == 0 and not (tmp_path / "f.json").exists()
    assert "red" in capsys.readouterr().err


def test_the_gate_runs_pytest(tmp_path, monkeypatch):
    monkeypatch.setattr("mmxai.bench.gate.checkout", lambda: tmp_path)
    (tmp_path / "test_green.py").write_text("def test_it(): pass\n")
    (tmp_path / "test_red.py").write_text("def test_it(): assert False\n")
    assert run_tests(["test_green.py"]) == GREEN
    with pytest.raises(RedTestsError, match="nothing is timed"):
        run_tests(["test_green.py", "test_red.py"])
    with pytest.raises(RedTestsError):
        run_tests(["test_not_there.py"])


def test_without_pytest_nothing_is_timed(monkeypatch):
    monkeypatch.setattr("mmxai.bench.gate.importlib.util.find_spec", lambda name: None)
    with pytest.raises(RedTestsError, match="pytest is not installed"):
        run_tests(["tests/stats"])


def test_json_and_exit_status(fake, tmp_path, capsys):
    path = tmp_path / "f.json"
    assert main(["bench", "fake", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert document["figures"] == {"fake_ratio": 2.0}
    assert document["cases"]["fake"]["tests"] == GREEN
    fake.value = 0.5
    assert main(["bench", "fake", "--json", str(path)]) == 1
    assert "MISSED" in capsys.readouterr().out
    assert main(["bench", "fake", "--quick", "--json", str(path)]) == 0  # a quick run judges nothing
    assert json.loads(path.read_text())["cases"]["fake"]["quick"]


def test_save_keeps_one_file_a_machine(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "results_folder", lambda: tmp_path)
    assert main(["bench", "fake", "--save"]) == 0
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["figures"] == {"fake_ratio": 2.0}
    assert main(["bench", "fake", "--save", "--quick"]) == 1
    assert json.loads(path.read_text())["figures"] == {"fake_ratio": 2.0}


def test_a_machine_that_lacks_what_is_measured(fake, capsys):
    fake.error = CannotRunError("no CUDA device")
    assert main(["bench", "fake"]) == 0
    assert "fake: cannot run here: no CUDA device" in capsys.readouterr().out


def test_a_case_for_a_gpu_is_not_begun_without_one(fake, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    fake.gpu, fake.tests = True, RedTestsError("not to be run")
    assert main(["bench", "fake"]) == 0 and fake.ran == 0
    assert "fake: cannot run here: torch sees no CUDA GPU" in capsys.readouterr().out


def test_lists_cases_and_their_peers(capsys):
    assert main(["bench"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out for name in CASES)
    assert "tensorstore" in out and "zennit-crp" in out


def test_usage_errors(capsys):
    assert main(["bench", "no-such-case"]) == 1
    assert "expected stats, store" in capsys.readouterr().err
    assert main(["bench", "stats", "--write", "README.md"]) == 1
    with pytest.raises(ArgumentError, match="no peer"):
        from mmxai.bench.peers import wanted

        wanted(Options(peers=("nobody",)), "store")


@pytest.mark.parametrize("name", CASES)
def test_every_case_names_tests_that_exist(name):
    tests = load(name).TESTS
    assert tests and all((ROOT / path).exists() for path in tests)


@pytest.mark.parametrize("name", ["stats", "store", "profiles", "shapes", "harvest"])
def test_every_case_runs(name, tmp_path):
    """Tiny shapes; every figure has a value and a floor."""
    options = Options(quick=True, warm_folder=str(tmp_path), cold_folder=str(tmp_path))
    figures = load(name).run(options)
    assert figures and all(f.value > 0 and f.floor and f.detail for f in figures)
    assert len({f.name for f in figures}) == len(figures)
    assert not list(tmp_path.iterdir())


def test_the_stats_case_has_the_figures_it_promises():
    names = {f.name for f in load("stats").run(Options(quick=True))}
    assert {"fused_vs_torch", "fused_vs_torch_best", "fused_vs_floor", "fused_vs_torch_bf16"} <= names


def test_an_installed_package(tmp_path):
    """The package alone, away from the checkout, as a wheel leaves it: runs, and says what it leaves out."""
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site / "mmxai", ignore=shutil.ignore_patterns("__pycache__", "trained"))
    env = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"}
    command = [sys.executable, "-m", "mmxai.cli", "bench"]

    def bench(*args):
        return subprocess.run([*command, *args], cwd=tmp_path, env=env, capture_output=True, text=True)

    done = bench("stats", "--quick", "--json", "out.json")
    assert done.returncode == 0, done.stderr
    assert f"tests first: {INSTALLED}" in done.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["cases"]["stats"] == document["cases"]["stats"] | {"commit": None, "tests": INSTALLED}
    kept = bench("stats", "--save")
    assert kept.returncode == 1 and "part of a checkout" in kept.stderr


def test_python_m_benchmarks_is_mmxai_bench():
    command = [sys.executable, "-m", "benchmarks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "harvest " in done.stdout
