"""How a data SPEC becomes loaders: `module:loaders`, `file.py:loaders`, `folder:`, `sklearn:` and the hubs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.errors import TaskError, did_you_mean
from autoprune.specs import call_object, load_object, parse_options
from autoprune.tasks.digits import digits_batches
from autoprune.tasks.hubs import hf_splits, torchvision_splits
from autoprune.tasks.images import folder_splits

__all__ = ["DATA_SPECS", "Loaders", "load_data"]

DATA_SPECS = "folder:PATH, sklearn:digits, torchvision:NAME, hf:NAME, pkg.module:loaders, path/file.py:loaders"
_SPLITS = ("train", "validation", "test")
_OTHER_NAMES = {"eval": "validation", "val": "validation", "valid": "validation"}


@dataclass(frozen=True)
class Loaders:
    """Batches of `(inputs, target)` per split, as `Task` takes them; validation and test may be missing."""

    train: Any
    validation: Any = None
    test: Any = None
    notes: tuple[str, ...] = ()


def load_data(spec: str, model_spec: str | None = None) -> Loaders:
    """The loaders that `spec` names.

    `pkg.mod:loaders`, `path/file.py:loaders`: called without arguments; gives a dict with the keys train, validation
    (or val), test, a tuple in that order, or an object with those attributes. `folder:PATH`, `torchvision:NAME` and
    `hf:NAME` take options after `?`, see `images.folder_splits`, `hubs.torchvision_splits` and `hubs.hf_splits`.
    `sklearn:digits[?size=32&batch=32]`. `model_spec` is asked for the tokenizer of text. `TaskError` otherwise.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise TaskError("the data SPEC names nothing to load", given=repr(spec), allowed=DATA_SPECS,
                        fix="--data folder:PATH")
    if kind == "sklearn":
        return _sklearn(rest, spec)
    if kind in ("folder", "torchvision", "hf"):
        parts, notes = (folder_splits(rest, spec) if kind == "folder" else torchvision_splits(rest, spec)
                        if kind == "torchvision" else hf_splits(rest, spec, model_spec))
        return Loaders(parts["train"], parts.get("validation"), parts.get("test"), notes)
    try:
        found = load_object(spec)
    except TaskError as error:
        if error.message.startswith("there is no module") and "." not in kind:
            near = did_you_mean(kind, ("folder", "hf", "sklearn", "torchvision"))
            raise TaskError(error.message, given=spec, allowed=DATA_SPECS,
                            fix=f"check the part before the colon: {near}") from error
        raise
    return _from_user(call_object(found, spec, "the data loaders") if callable(found) else found, spec)


def _sklearn(rest: str, spec: str) -> Loaders:
    name, options = parse_options(rest, {"size": 32, "batch": 32})
    if name != "digits":
        raise TaskError("unknown scikit-learn data", given=spec, allowed=did_you_mean(name, ("digits",)),
                        fix="sklearn:digits?size=32&batch=32")
    parts = digits_batches(options["size"], options["batch"])
    return Loaders(parts["train"], parts["validation"], parts["test"])


def _from_user(found: Any, spec: str) -> Loaders:
    if isinstance(found, Mapping):
        given = {_OTHER_NAMES.get(str(key), str(key)): value for key, value in found.items()}
        if strange := sorted(set(given) - set(_SPLITS)):
            raise TaskError(f"unknown split {strange[0]!r} in the data", given=spec,
                            allowed=did_you_mean(strange[0], _SPLITS), fix="return a dict with train, validation, test")
    elif isinstance(found, tuple) and 1 <= len(found) <= 3:
        given = dict(zip(_SPLITS, found, strict=False))
    else:
        given = {split: getattr(found, split, None) for split in _SPLITS}
    if given.get("train") is None:
        raise TaskError("the data SPEC gives no training data", given=f"{spec} → {type(found).__name__}",
                        allowed="a dict, tuple or object with train, and optionally validation and test",
                        fix='return {"train": …, "validation": …, "test": …}')
    return Loaders(given["train"], given.get("validation"), given.get("test"))
