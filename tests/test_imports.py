"""Imports point one way; heavy families stay inside what needs them; nothing unpickles."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mmxai"

BASE = {"_lazy", "errors", "types", "share", "results", "runs", "pickled"}
ALLOWED = {
    "_lazy": set(),
    "errors": set(),
    "types": {"errors"},
    "share": {"errors"},
    "results": {"errors"},
    "runs": set(),
    "pickled": {"errors"},
    "_unpickle": set(),
    "kernels": BASE,
    "stats": BASE | {"kernels"},
    "store": BASE | {"kernels", "stats"},
    "data": BASE | {"kernels"},
    "capture": BASE | {"kernels"},
    "models": BASE | {"kernels", "capture", "data"},
    "harvesting": BASE | {"kernels", "stats", "store", "data", "capture", "models"},
    "shapes": BASE | {"store", "data"},
    "linalg": BASE | {"kernels"},
    "labels": BASE | {"store", "data", "models", "shapes"},
    "concepts": BASE | {"store", "data", "models", "shapes", "labels"},
    "methods": BASE
    | {"kernels", "stats", "store", "data", "capture", "models", "shapes", "linalg", "labels", "concepts"},
    "report": BASE | {"stats", "store", "labels", "concepts"},
    "bench": BASE
    | {"kernels", "stats", "store", "data", "capture", "models", "harvesting", "shapes", "methods"}
    | {"linalg", "labels", "concepts"},
    "__init__": BASE | {"store", "harvesting", "models", "methods"},
}
FILES = sorted(ROOT.rglob("*.py"))
UNPICKLES = ROOT / "_unpickle.py"
"""Other libraries' checkpoints, weights_only=True, as a script in a process of its own; nobody imports it."""


def unit(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def runtime_imports(tree: ast.AST):
    """Module names imported when the code runs; `if TYPE_CHECKING:` is for readers and checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from runtime_imports(node)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    if unit(path) == "cli":
        return
    found = {
        name.split(".")[1]
        for name in runtime_imports(ast.parse(path.read_text()))
        if name.startswith("mmxai.") and name.split(".")[1] != "__version__"
    }
    assert found - {unit(path)} <= ALLOWED[unit(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_methods_know_nothing_of_each_other(path):
    parts = path.relative_to(ROOT / "methods").parts if path.is_relative_to(ROOT / "methods") else ()
    if len(parts) < 1 or parts == ("__init__.py",):
        return
    mine = parts[0].removesuffix(".py")
    names = runtime_imports(ast.parse(path.read_text()))
    others = {n.split(".")[2] for n in names if n.startswith("mmxai.methods.")} - {mine}
    assert not others


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles(path):
    names = set(runtime_imports(ast.parse(path.read_text())))
    assert not {n for n in names if n.split(".")[0] in ("pickle", "joblib", "dill", "cloudpickle")}
    assert not {n for n in names if "_unpickle" in n}
    calls = path.read_text().replace('torch.load(source, map_location="cpu", weights_only=True)', "")
    assert "torch.load" not in (calls if path == UNPICKLES else path.read_text())


LAZY = [path for path in FILES if path.name == "__init__.py" and "lazy(" in path.read_text()]


@pytest.mark.parametrize("path", LAZY, ids=lambda p: str(p.parent.relative_to(ROOT.parent)))
def test_names_that_load_on_first_use(path):
    """Type checkers see them where they load from, `dir` lists them, and no other name loads."""
    name = ".".join(path.parent.relative_to(ROOT.parent).parts)
    package = import_module(name)
    (block,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == {key: f"{name}.{home}" for key, home in package._HOMES.items()}
    assert sorted(seen) == sorted(package.__all__) and {"__name__", *seen} <= set(dir(package))
    for key, home in seen.items():
        assert getattr(package, key) is getattr(import_module(home), key)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_import_is_light():
    """`import mmxai` loads neither torch nor transformers: a Zarr reader may import it for the data type."""
    code = (
        "import sys, mmxai; print([m for m in ('torch', 'transformers', 'numba', 'PIL') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
