from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autoprune.errors import TaskError
from autoprune.specs import call_object, load_object, parse_options


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    """A file as a user would write it."""
    path = tmp_path / "mine.py"
    path.write_text('''
number = 7

def loaders():
    return {}

def broken():
    layers = []
    return layers[3]
''')
    return path


def test_from_a_file_and_from_a_module(user_file: Path) -> None:
    assert load_object(f"{user_file}:number") == 7
    assert load_object("math:pi") > 3
    assert load_object("pathlib:Path.exists") is Path.exists


def test_the_same_file_runs_once(tmp_path: Path) -> None:
    path = write(tmp_path, "once.py", "thing = object()\n")
    assert load_object(f"{path}:thing") is load_object(f"{path}:thing")


def test_a_relative_path_and_a_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "autoprune_test_sibling.py", "value = 5\n")
    write(tmp_path, "uses_sibling.py", "from autoprune_test_sibling import value\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_object("uses_sibling.py:value") == 5
    assert load_object("autoprune_test_sibling:value") == 5


@pytest.mark.parametrize(("spec", "match"), [
    ("nothing", "does not name an object"),
    (":name", "does not name an object"),
    ("file.py:", "does not name an object"),
    ("autoprune_no_such_module:x", "no module 'autoprune_no_such_module'"),
    ("math:sine", "math has no 'sine'"),
])
def test_unusable_specs(spec: str, match: str) -> None:
    with pytest.raises(TaskError, match=match) as caught:
        load_object(spec)
    assert caught.value.fix


def test_a_missing_file_suggests_its_neighbour(user_file: Path) -> None:
    with pytest.raises(TaskError, match=r"did you mean 'mine\.py'"):
        load_object(f"{user_file.parent / 'mime.py'}:model")


def test_a_missing_name_suggests(user_file: Path) -> None:
    with pytest.raises(TaskError, match="did you mean 'loaders'"):
        load_object(f"{user_file}:loader")


def test_an_exception_at_import_shows_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "bad_import.py", "import math\n\nvalue = math.sqrt(-1)\n")
    with pytest.raises(TaskError) as caught:
        load_object(f"{path}:value")
    assert "ValueError" in str(caught.value)
    assert f"{path}:3" in str(caught.value)
    assert "value = math.sqrt(-1)" in str(caught.value)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "needs.py", "import autoprune_no_such_package.sub\n")
    with pytest.raises(TaskError, match="pip install autoprune_no_such_package"):
        load_object(f"{path}:value")


def test_a_syntax_error(tmp_path: Path) -> None:
    path = write(tmp_path, "syntax.py", "def f(:\n")
    with pytest.raises(TaskError, match="not valid Python"):
        load_object(f"{path}:f")


def test_a_raising_factory_shows_type_message_and_line(user_file: Path) -> None:
    with pytest.raises(TaskError) as caught:
        call_object(load_object(f"{user_file}:broken"), f"{user_file}:broken", "the model factory")
    text = str(caught.value)
    assert "the model factory raised an exception" in text
    assert "IndexError: list index out of range" in text
    assert "in broken: return layers[3]" in text


def test_a_script_that_ends_the_process_is_an_error(tmp_path: Path) -> None:
    """And not the end of autoprune, with exit code 0 and no word."""
    path = write(tmp_path, "script.py", "import sys\n\nvalue = 1\nsys.exit(0)\n")
    with pytest.raises(TaskError, match="ends the process") as caught:
        load_object(f"{path}:value")
    assert "__main__" in str(caught.value)
    path = write(tmp_path, "leaves.py", "import sys\n\ndef make():\n    sys.exit(2)\n")
    with pytest.raises(TaskError, match="the model factory raised"):
        call_object(load_object(f"{path}:make"), f"{path}:make", "the model factory")


def test_options() -> None:
    defaults = {"size": 32, "flip": False, "column": None}
    assert parse_options("name", defaults) == ("name", defaults)
    assert parse_options("name?size=8&flip=true&column=a", defaults)[1] == {"size": 8, "flip": True, "column": "a"}


@pytest.mark.parametrize(("spec", "match"), [("n?sise=8", "did you mean 'size'"), ("n?size=big", "size=int"),
                                             ("n?flip=maybe", "true or false"), ("n?size", "no usable value")])
def test_wrong_options(spec: str, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        parse_options(spec, {"size": 32, "flip": False})
