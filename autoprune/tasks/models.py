"""How a model SPEC becomes a module: `pkg.mod:factory`, `path/file.py:factory`, `hf:`, `timm:`, `torchvision:`.

Code from a hub is never run (`trust_remote_code` stays off) and transformers reads safetensors only. timm and
torchvision fetch and check their own weights in their own way.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from torch import nn

from autoprune.errors import TaskError, did_you_mean, first_line
from autoprune.specs import call_object, load_object, parse_options, user_error

__all__ = ["HF_CLASSES", "MODEL_SPECS", "import_package", "load_model"]

MODEL_SPECS = "timm:NAME, torchvision:NAME, hf:ORG/NAME, pkg.module:factory, path/file.py:factory"
HF_CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
    "masked-lm": "AutoModelForMaskedLM",
    "semantic-segmentation": "AutoModelForSemanticSegmentation",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}


def load_model(spec: str) -> nn.Module:
    """The module that `spec` names.

    `pkg.mod:factory` and `path/file.py:factory`: a callable is called without arguments, a module instance is taken as
    it is. `hf:ORG/NAME[?task=image-classification&revision=main]`: transformers; without `task`, the class that the
    checkpoint was saved from. `timm:NAME[?pretrained=true]`, `torchvision:NAME[?weights=DEFAULT]` (`weights=none` for
    random ones). `TaskError` when something is missing, not installed, or is no module.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise TaskError("the model SPEC names nothing to load", given=repr(spec), allowed=MODEL_SPECS,
                        fix="--model path/file.py:factory")
    loaders = {"hf": _hf, "timm": _timm, "torchvision": _torchvision}
    model = loaders[kind](rest, spec) if kind in loaders else _user(spec)
    if not isinstance(model, nn.Module):
        raise TaskError("the model SPEC does not give a torch.nn.Module", given=f"{spec} → {type(model).__name__}",
                        allowed="a torch.nn.Module, or a callable without arguments that returns one",
                        fix="return the model from the factory")
    return model


def import_package(name: str, spec: str, install: str | None = None) -> ModuleType:
    """Import an optional package; `TaskError` with the command that installs it, or with why it does not import."""
    package = name.partition(".")[0]
    fix = f"pip install {install or package}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        if missing == package:
            raise TaskError(f"{package} is not installed", given=spec, fix=fix) from error
        raise TaskError(f"{package} needs {missing}, which is not installed", given=spec,
                        fix=f"pip install {missing}") from error
    except Exception as error:  # torchvision built for another torch raises RuntimeError, not ImportError
        raise TaskError(f"{package} is installed but does not import", given=f"{spec}\n           {first_line(error)}",
                        fix=f"{fix} --upgrade, in a version that fits your torch") from error


def _user(spec: str) -> Any:
    kind = spec.partition(":")[0]
    try:
        found = load_object(spec)
    except TaskError as error:
        if error.message.startswith("there is no module") and "." not in kind and "/" not in kind:
            raise TaskError(error.message, given=spec, allowed=MODEL_SPECS, fix="check the part before the colon: "
                            + did_you_mean(kind, ("hf", "timm", "torchvision"))) from error
        raise
    if isinstance(found, nn.Module) or not callable(found):
        return found
    return call_object(found, spec, "the model factory")


def _hf(rest: str, spec: str) -> Any:
    name, options = parse_options(rest, {"task": None, "revision": None})
    transformers = import_package("transformers", spec)
    task = options["task"]
    if task is not None and task not in HF_CLASSES:
        raise TaskError("unknown task of a transformers model", given=spec, allowed=did_you_mean(task, HF_CLASSES),
                        fix=f"hf:{name}?task=image-classification")
    where = {"revision": options["revision"] or "main", "trust_remote_code": False}
    try:
        if task is None:
            names = getattr(transformers.AutoConfig.from_pretrained(name, **where), "architectures", None) or []
            if not names or not hasattr(transformers, names[0]):
                raise TaskError("the checkpoint does not say which transformers class it is", given=f"{spec} → {names}",
                                allowed=", ".join(sorted(HF_CLASSES)), fix=f"hf:{name}?task=image-classification")
            found = getattr(transformers, names[0])
        else:
            found = getattr(transformers, HF_CLASSES[task])
        return found.from_pretrained(name, use_safetensors=True, **where).eval()
    except TaskError:
        raise
    except (OSError, ValueError) as error:
        raise TaskError("transformers cannot load the model", given=f"{spec}\n           {first_line(error)}",
                        allowed="a local folder or a name on the hub, with weights as safetensors",
                        fix=f"with a network connection: hf download {name}") from error
    except Exception as error:
        raise user_error(error, "transformers cannot load the model", spec) from error


def _timm(rest: str, spec: str) -> Any:
    name, options = parse_options(rest, {"pretrained": True})
    timm = import_package("timm", spec)
    known = list(timm.list_models())
    if name.partition(".")[0] not in known:
        near = did_you_mean(name, known).partition(" available")[0]
        raise TaskError("timm has no such model", given=spec, allowed=f"{near} {len(known)} models".strip(),
                        fix="python -c 'import timm; print(timm.list_models())'")
    return call_object(lambda: timm.create_model(name, pretrained=options["pretrained"]).eval(), spec, "timm")


def _torchvision(rest: str, spec: str) -> Any:
    name, options = parse_options(rest, {"weights": "DEFAULT"})
    models = import_package("torchvision.models", spec)
    known = list(models.list_models())
    if name not in known:
        raise TaskError("torchvision has no such model", given=spec, allowed=did_you_mean(name, known),
                        fix="python -c 'import torchvision; print(torchvision.models.list_models())'")
    weights = None if options["weights"].lower() == "none" else options["weights"]
    return call_object(lambda: models.get_model(name, weights=weights).eval(), spec, "torchvision")
