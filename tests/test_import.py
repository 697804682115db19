"""`import autoprune` and `--help` stay cheap, and every public name exists."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import autoprune

HEAVY = {"torch", "optuna", "onnx", "onnxruntime", "onnxscript", "numpy", "scipy", "sklearn", "fvcore", "safetensors",
         "plotly", "transformers", "timm"}


def loaded_after(code: str) -> set[str]:
    """Names of the top-level modules that a fresh interpreter has after running `code`."""
    script = f"{code}\nimport json, sys\nsys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


def test_import_loads_nothing_heavy() -> None:
    loaded = loaded_after("import autoprune; dir(autoprune); autoprune.__version__")
    assert "autoprune" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["search", "--help"], ["layers", "--help"]],
                         ids=" ".join)
def test_help_loads_no_torch(arguments: list[str]) -> None:
    code = f"from autoprune.cli.main import run\nassert run({arguments!r}) == 0"
    loaded = loaded_after(code)
    assert "autoprune" in loaded
    assert not loaded & {"torch", "optuna", "onnx", "onnxruntime", "sklearn", "fvcore", "transformers"}


def test_errors_and_units_need_nothing_heavy() -> None:
    code = "import autoprune.errors, autoprune.units, autoprune.config; autoprune.AutopruneError"
    assert not loaded_after(code) & HEAVY


@pytest.mark.parametrize("name", [n for n in autoprune.__all__ if n != "search"])
def test_public_names_resolve(name: str) -> None:
    value = getattr(autoprune, name)
    assert value is not None
    home = autoprune._HOMES.get(name)
    if home is not None:
        assert getattr(importlib.import_module(home), name) is value
        assert name in importlib.import_module(home).__all__, f"{home} does not export {name}"


@pytest.mark.parametrize("before", ["autoprune.search", "autoprune.Space", "autoprune.load"])
def test_search_can_always_be_called(before: str) -> None:
    """Importing `autoprune.search.anything` puts the sub-package in the place of the function."""
    loaded_after(f"import autoprune\n{before}\nassert callable(autoprune.search)\nassert callable(autoprune.search)")


def test_all_is_sorted_and_listed_for_type_checkers() -> None:
    import ast
    import inspect

    assert [*sorted(autoprune._HOMES), "__version__"] == autoprune.__all__
    assert sorted(dir(autoprune)) == sorted(autoprune.__all__)
    tree = ast.parse(inspect.getsource(autoprune))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    typed = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert typed == autoprune._HOMES


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        autoprune.nothing  # noqa: B018


MODULES = [m.name for m in pkgutil.walk_packages(autoprune.__path__, "autoprune.")]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_and_its_all_resolves(module: str) -> None:
    loaded = importlib.import_module(module)
    for name in getattr(loaded, "__all__", []):
        assert hasattr(loaded, name), f"{module}.__all__ names {name}, which does not exist"
