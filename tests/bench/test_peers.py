"""Peers: environments, the process that answers, and scripts that import nothing of ours."""

import ast
import json
import subprocess
import threading
import time
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmxai.bench import Options, peers
from mmxai.bench.cases import CASES
from mmxai.bench.figures import UnequalWorkError
from mmxai.bench.peers import PEERS, PeerError, Rival, peers_of, running, wanted
from mmxai.bench.peers.environment import PeerInstallError, environment

FOLDER = Path(peers.__file__).parent
SCRIPTS = sorted({*FOLDER.glob("*_.py"), FOLDER / "_serve.py"} - {FOLDER / "__init__.py"})
"""What runs in an environment of a peer: their scripts, what these share and what runs them."""

SCRIPT = """
import sys
print("a library prints this at import")

def prepare(job):
    runs = []
    def work(*args):
        print("and this at work")
        runs.append(args)
    def answer():
        return {"runs": len(runs), "job": job["n"], "prefix": sys.prefix, "args": runs[-1]}
    return {"work": work, "fail": lambda: 1 / 0}, answer
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return environment("empty", (), tmp_path_factory.mktemp("peers"))


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "peer_.py"
    path.write_text(SCRIPT)
    return path


def test_what_is_to_be_left_out_is_taken_out_again(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(venv, "create", lambda home, **options: home.mkdir())
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: ran.append(command[3:]) or SimpleNamespace(returncode=0)
    )
    for _ in range(2):
        environment("peer", ("a==1",), tmp_path, without=("b",))
    assert ran == [["install", "--quiet", "a==1"], ["uninstall", "--quiet", "--yes", "b"]]
    environment("peer", ("a==1",), tmp_path)
    assert len(ran) == 3  # another environment


def test_two_processes_that_want_one_environment_make_it_once(tmp_path, monkeypatch):
    made = []

    def create(home, **options):
        made.append(home)
        time.sleep(0.2)  # in which the other would begin too
        home.mkdir()

    monkeypatch.setattr(venv, "create", create)
    threads = [threading.Thread(target=environment, args=("peer", (), tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [tmp_path / "peer"]


def test_a_peer_works_in_its_environment(python, script, tmp_path):
    with Rival("peer", python, script, {"n": 7}) as rival:
        for _ in range(3):
            rival.run("work", tmp_path)
        answer = rival.answer()
    assert answer["runs"] == 3 and answer["job"] == 7
    assert answer["prefix"] == str(python.parent.parent)
    assert answer["args"] == [str(tmp_path)]


def test_a_peer_that_fails_says_so(python, script):
    with Rival("peer", python, script, {"n": 1}) as rival, pytest.raises(PeerError, match="status 1"):
        rival.run("fail")


def test_a_peer_that_cannot_begin(python, tmp_path):
    script = tmp_path / "broken_.py"
    script.write_text("import a_package_that_is_not_here\n")
    with pytest.raises(PeerError, match="broken: its process ended with status 1"):
        Rival("broken", python, script, {})


def test_different_answers_are_different_work(python, tmp_path):
    script = tmp_path / "sum_.py"
    script.write_text("def prepare(job):\n    return {}, lambda: {'sum': 2.0}\n")
    with Rival("sum", python, script, {}) as rival:
        rival.agree({"sum": 2.0, "more": 1.0})
        rival.agree({"sum": 2.001}, tolerance=1e-3)
        with pytest.raises(UnequalWorkError, match=r"sum is 2\.0, ours 2\.1"):
            rival.agree({"sum": 2.1}, tolerance=1e-3)
        with pytest.raises(UnequalWorkError):
            rival.agree({"sum": float("nan")})


def test_an_environment_is_made_once_and_again_for_other_pins(tmp_path, capfd):
    first = environment("empty", (), tmp_path)
    assert "making" in capfd.readouterr().err
    assert environment("empty", (), tmp_path) == first
    assert "making" not in capfd.readouterr().err
    stamp = tmp_path / "empty" / "mmxai.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"packages": ["other==1"]}))
    environment("empty", (), tmp_path)
    assert "making" in capfd.readouterr().err


def test_packages_that_cannot_be_had(tmp_path, monkeypatch):
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(PeerInstallError, match="could not install mmxai-no-such-package==1"):
        environment("none", ("mmxai-no-such-package==1",), tmp_path)
    assert not (tmp_path / "none" / "mmxai.json").exists()  # so that the next call tries again


@pytest.mark.parametrize("peer", PEERS, ids=lambda p: p.name)
def test_peers_are_pinned(peer):
    assert peer.case in CASES
    assert peer.packages and all("==" in package for package in peer.packages)
    assert peer.script in SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_what_runs_in_a_peer_imports_nothing_of_ours(script):
    names = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0
            names.add(node.module)
    assert not [name for name in names if name.split(".")[0] == "mmxai"]


def test_which_peers():
    assert wanted(Options(), "store") == []
    assert wanted(Options(peers=()), "store") == peers_of("store")
    assert [p.name for p in wanted(Options(peers=("h5py", "scikit-learn")), "store")] == ["h5py"]
    with running(Options(), "store", {}) as rivals:
        assert rivals == {}
