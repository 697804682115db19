"""The wheel has everything: built, installed into a fresh environment, used from an empty directory."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def shell(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    shell(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation" if _hatchling() else "-q", "-w",
          folder, ROOT, cwd=folder)
    return next(folder.glob("autoprune-*.whl"))


def _hatchling() -> bool:
    import importlib.util

    return importlib.util.find_spec("hatchling") is not None


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, which finds the dependencies of this one."""
    folder = tmp_path_factory.mktemp("venv")
    shell(sys.executable, "-m", "venv", folder, cwd=folder)
    python = folder / "bin" / "python"
    shell(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    # the dependencies come from here, through a .pth: behind the wheel, and without the checkout of an editable install
    own = Path(shell(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    here = next(p for p in sys.path if (Path(p) / "torch").is_dir())
    (own / "dependencies.pth").write_text(here + "\n")
    return folder / "bin"


def test_the_wheel_holds_the_data_and_nothing_of_the_repository(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for kind in ("devices", "search_spaces"):
        shipped = {f.name for f in (ROOT / kind).glob("*.toml")}
        assert {Path(n).name for n in names if n.startswith(f"autoprune/_data/{kind}/")} == shipped
    assert any(n.endswith("tasks/weights/digits.safetensors") for n in names)
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "docs/"))]
    assert wheel.stat().st_size < 8e6


def test_it_works_from_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    where = shell(installed / "python", "-c", "import autoprune; print(autoprune.__file__)", cwd=tmp_path)
    assert str(installed.parent) in where
    devices = json.loads(shell(installed / "autoprune", "devices", "list", "--format", "json", cwd=tmp_path))
    assert {d["name"] for d in devices} == {f.stem for f in (ROOT / "devices").glob("*.toml")}
    spaces = json.loads(shell(installed / "autoprune", "spaces", "list", "--format", "json", cwd=tmp_path))
    assert {s["name"] for s in spaces} == {f.stem for f in (ROOT / "search_spaces").glob("*.toml")}
    assert "rpi4" in shell(installed / "autoprune", "devices", "list", cwd=tmp_path)
    latency = shell(installed / "autoprune", "profile", "--device", "raspberrypi", "--format", "json", cwd=tmp_path)
    assert json.loads(latency)["latency"]["ms"] >= 30  # the example is over the budget of the first command
    assert not list(tmp_path.iterdir())
