from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import TaskError
from autoprune.tasks.data import load_data


def test_a_dict_a_tuple_and_an_object(user_file: Path) -> None:
    loaders = load_data(f"{user_file}:loaders")
    assert [len(part) for part in (loaders.train, loaders.validation, loaders.test)] == [4, 2, 2]
    assert load_data(f"{user_file}:as_tuple").test is None
    assert len(load_data(f"{user_file}:AsObject").validation) == 1


@pytest.mark.parametrize(("name", "match"), [("no_train", "no training data"), ("typo", "did you mean 'validation'"),
                                             ("number", "no training data"), ("broken", "the data loaders raised"),
                                             ("loadres", "did you mean 'loaders'")])
def test_unusable_loaders(user_file: Path, name: str, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        load_data(f"{user_file}:{name}")


@pytest.mark.parametrize(("spec", "match"), [("cifar", "names nothing"), ("fodler:x", "did you mean 'folder'"),
                                             ("sklearn:digit", "did you mean 'digits'"),
                                             ("sklearn:digits?size=4", "at least 8"),
                                             ("sklearn:digits?bacth=4", "did you mean 'batch'")])
def test_unusable_specs(spec: str, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        load_data(spec)


def test_digits_with_options() -> None:
    loaders = load_data("sklearn:digits?size=16&batch=10")
    inputs, target = next(iter(loaders.train))
    assert list(inputs.shape) == [10, 1, 16, 16]
    assert list(target.shape) == [10]
