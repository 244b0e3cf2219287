"""Where networks come from: one entry for each kind of name."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from ghostify.errors import ModelError, WeightsError, first_line, nearest, shown
from ghostify.files import kind_of
from ghostify.models import NETWORKS
from ghostify.zoo.weights import load_weights

TIMM = "timm/"


@dataclass(frozen=True)
class ModelSource:
    """A kind of model name.

    Attributes:
        accepts: Whether a name is of this kind.
        names: All names of the kind that can be listed.
        build: From a name and arguments to the network.
        weights: From a name and the name of weights to the arguments that load them; empty where
            the weights are not known by name.
        fetching: Arguments that say where trained weights come from, and nothing of the network.
    """

    accepts: Callable[[str], bool]
    names: Callable[[], list[str]]
    build: Callable[[str, dict[str, Any]], nn.Module]
    weights: Callable[[str, str], dict[str, Any]] | None = None
    fetching: frozenset[str] = frozenset()


def build_model(
    name: str,
    model_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
) -> nn.Module:
    """Build a network from its name, in the mode that its factory leaves it in.

    Args:
        name: One that `list_models` gives, ``package.module:factory`` or ``file.py:factory``.
        model_args: Keyword arguments for the factory.
        weights: A file (see `load_weights`), a name of torchvision's weights (``DEFAULT``, ...), or
            ``pretrained`` for timm's.

    Raises:
        ModelError: There is no such network, or its factory fails.
        WeightsError: The weights can't be had, or don't fit.
    """
    source = _source_of(name)
    arguments = dict(model_args or {})
    file = weights
    if weights is not None and source.weights is not None and _is_no_path(weights):
        known = source.weights(name, str(weights))
        arguments |= known
        file = None if known else weights
    try:
        model = source.build(name, arguments)
    except (KeyboardInterrupt, ModelError, WeightsError):
        raise
    except URLError as error:
        raise WeightsError(
            f"The weights of {name!r} can't be downloaded ({error.reason}): "
            "give a file of weights, or none."
        ) from error
    except BaseException as error:  # a factory may call sys.exit, which is no Exception
        said = f"{type(error).__name__}: {first_line(error).rstrip('.')}".removesuffix(": ")
        raise ModelError(
            f"{name!r} can't be built with {shown(arguments, 400) if arguments else 'no arguments'}"
            f": {said}."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{name!r} gave a {type(model).__name__}, and no torch.nn.Module: "
            "name a factory that returns one."
        )
    if file is not None:
        load_weights(model, file)
    return model


def list_models(pattern: str = "*") -> list[str]:
    """The names of networks, ghostify's own first.

    Args:
        pattern: A glob pattern, or a part of the name.
    """
    glob = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    names = (name for source in SOURCES for name in sorted(source.names()))
    return [name for name in names if fnmatch.fnmatchcase(name, glob)]


def runs_user_code(name: str) -> bool:
    """Whether building ``name`` imports a module or file that the name itself tells."""
    return ":" in name


def without_weights(name: str, model_args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that build a network of the same structure, without its trained weights."""
    kind = next((source for source in SOURCES if source.accepts(name)), None)
    fetching = frozenset() if kind is None else kind.fetching
    return {key: value for key, value in model_args.items() if key not in fetching}


def _is_no_path(weights: str | Path) -> bool:
    return kind_of(Path(weights), WeightsError) == "nothing"


def _source_of(name: str) -> ModelSource:
    for source in SOURCES:
        if source.accepts(name):
            return source
    raise ModelError(
        f"{name!r} is no model{nearest(name, list_models())}: see `ghostify models`, "
        "or give package.module:factory, file.py:factory or a saved folder."
    )


def _library(name: str) -> Any:
    """A library of models, imported as if no other default device were set.

    Under ``torch.device("meta")`` what an import computes has no data: torch 2.6's compiler, which
    torchvision imports, fails on that.
    """
    with torch.device("cpu"):
        return importlib.import_module(name)


def _torchvision_names() -> list[str]:
    torchvision = _library("torchvision")

    return torchvision.models.list_models()


def _build_torchvision(name: str, arguments: dict[str, Any]) -> nn.Module:
    torchvision = _library("torchvision")

    builder = torchvision.models.get_model_builder(name)
    # Without this, segmentation and detection networks download their backbone's weights.
    takes_backbone = "weights_backbone" in inspect.signature(builder).parameters
    defaults = {"weights": None} | ({"weights_backbone": None} if takes_backbone else {})
    model = builder(**(defaults | arguments))
    weights = torchvision.models.get_model_weights(name).verify(arguments.get("weights"))
    if weights is not None:
        model.pretrained_cfg = _configuration(weights.transforms())
    return model


def _configuration(transforms: Any) -> dict[str, Any]:
    """How trained weights want images, in timm's words; empty where they don't cut out a part."""
    resize, crop = (getattr(transforms, f"{name}_size", None) for name in ("resize", "crop"))
    if not (resize and crop):
        return {}
    return {
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        "interpolation": transforms.interpolation.value,
        "crop_pct": Fraction(crop[0], resize[0]),  # as a float, 224 / (224 / 232) is below 232
    }


def _torchvision_weights(name: str, weights: str) -> dict[str, Any]:
    torchvision = _library("torchvision")

    enum = torchvision.models.get_model_weights(name)
    wanted = weights.rpartition(".")[2]
    known = list(dict.fromkeys(["DEFAULT", *enum.__members__]))
    if wanted in known:
        return {"weights": enum[wanted]}
    if Path(weights).suffix:
        return {}
    raise WeightsError(
        f"{weights!r} is no file and no weights of {name}{nearest(wanted, known)}: "
        f"give a file, or one of {', '.join(known)}."
    )


def _timm_names() -> list[str]:
    if importlib.util.find_spec("timm") is None:
        return []
    timm = _library("timm")

    return [f"{TIMM}{name}" for name in timm.list_models()]


def _build_timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    if importlib.util.find_spec("timm") is None:
        raise ModelError(f"{name!r} needs timm: pip install 'ghostify[timm]'.")
    timm = _library("timm")

    short = name.removeprefix(TIMM)
    if not timm.is_model(short):
        raise ModelError(f"timm has no {short!r}{nearest(short, timm.list_models())}.")
    return timm.create_model(short, **arguments)


def _timm_weights(name: str, weights: str) -> dict[str, Any]:
    return {"pretrained": True} if weights == "pretrained" else {}


def find_object(name: str) -> Any:
    """What ``package.module:name`` or ``file.py:name`` names; the module's code is run.

    Raises:
        ModelError: There is no such module or file, it fails, or it has no such name.
    """
    place, _, attribute = name.rpartition(":")
    found: Any = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{place} has no {part!r}{nearest(part, dir(found))}.")
        found = getattr(found, part)
    return found


def _build_from_code(name: str, arguments: dict[str, Any]) -> nn.Module:
    factory = find_object(name)
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ModelError(f"{name!r} is a {type(factory).__name__}: name a factory or a class.")
    return factory(**arguments)


def _import_module(name: str) -> Any:
    with _importable(Path.cwd()):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise ModelError(
                f"{name!r} can't be imported ({error}): give a module that Python finds from here, "
                "or file.py:factory."
            ) from error
        except SystemExit as error:
            raise ModelError(f"{name!r} can't be imported: SystemExit: {error}.") from error


def _import_file(path: Path) -> Any:
    if kind_of(path, ModelError) != "file":
        raise ModelError(f"{path} is no file: give file.py:name.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _importable(path.resolve().parent):
        sys.modules.setdefault(path.stem, module)  # so that its classes can be pickled
        try:
            spec.loader.exec_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # as in `build`
            raise ModelError(
                f"{path} can't be imported: {type(error).__name__}: {error}."
            ) from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in ``folder`` can be imported inside."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


SOURCES: tuple[ModelSource, ...] = (
    ModelSource(
        accepts=lambda name: name in NETWORKS,
        names=lambda: list(NETWORKS),
        build=lambda name, arguments: NETWORKS[name](**arguments),
    ),
    ModelSource(
        accepts=runs_user_code,
        names=list,
        build=_build_from_code,
    ),
    ModelSource(
        accepts=lambda name: name.startswith(TIMM),
        names=_timm_names,
        build=_build_timm,
        weights=_timm_weights,
        fetching=frozenset({"pretrained", "checkpoint_path", "cache_dir"}),
    ),
    ModelSource(
        accepts=lambda name: name in _torchvision_names(),
        names=_torchvision_names,
        build=_build_torchvision,
        weights=_torchvision_weights,
    ),
)
"""The kinds of names, in the order in which they are asked; a new source is one more entry."""
