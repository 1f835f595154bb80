"""Where a teacher comes from: torchvision, timm, or a function of the user's own."""

from __future__ import annotations

import difflib
import importlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from dfq_plugin.checkpoints import SUFFIXES, find_class_count, put_weights, read_weights
from dfq_plugin.errors import InputError

if TYPE_CHECKING:
    from dfq_plugin.config.schema import ModelSettings

logger = logging.getLogger("nncf.dfq_plugin.teacher")

Normalisation = tuple[float, ...]


class LoadedNetwork(NamedTuple):
    """A network with the mean and std of its training images, (C,) of pixels in 0..1; None when not known."""

    network: nn.Module
    mean: Normalisation | None
    std: Normalisation | None


def load_network(settings: ModelSettings) -> LoadedNetwork:
    """Make the network that the config names and give it its weights.

    The mean and std of the settings stand before those that are published with the network.

    Raises:
        InputError: There is no such network, its package is not installed, or the weights cannot be had or do not fit.
    """
    kind, _, name = settings.source.partition(":")
    builders: dict[str, Callable[[str, str | None], LoadedNetwork]] = {
        "torchvision": _load_torchvision,
        "timm": _load_timm,
        "python": _load_python,
    }
    if kind not in builders or not name:
        forms = "'torchvision:NAME', 'timm:NAME' or 'python:package.module:factory'"
        msg = f"model.source is {forms}, got '{settings.source}'."
        raise InputError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # so that even a network without weights is the same every time
        loaded = builders[kind](name, settings.weights)
    if settings.mean is not None:
        return LoadedNetwork(loaded.network, settings.mean, settings.std)
    return loaded


def _load_torchvision(name: str, weights: str | None) -> LoadedNetwork:
    models = _import_optional("torchvision.models")
    if name not in models.list_models():
        raise InputError(_unknown("torchvision network", name, models.list_models()))
    tags = models.get_model_weights(name)
    if weights is None or _is_file(weights):
        network = _build(
            lambda **options: models.get_model(name, weights=None, **options), f"torchvision:{name}", weights
        )
        published = getattr(tags, "DEFAULT", None)
    else:
        tag = weights.rpartition(".")[2]
        if tag not in tags.__members__:
            raise InputError(_unknown(f"weights of torchvision:{name}", tag, tags.__members__))
        published = tags[tag]
        network = _fetch(lambda: models.get_model(name, weights=published), f"torchvision:{name}", tag)
    transforms = published.transforms() if published is not None else None
    return LoadedNetwork(network, *_normalisation(getattr(transforms, "mean", None), getattr(transforms, "std", None)))


def _load_timm(name: str, weights: str | None) -> LoadedNetwork:
    timm = _import_optional("timm")
    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise InputError(_unknown("timm network", base, timm.list_models()))
    if weights is None or _is_file(weights):
        network = _build(
            lambda **options: timm.create_model(name, pretrained=False, **options), f"timm:{name}", weights
        )
    else:
        tagged = f"{base}.{weights}"
        if tagged not in timm.list_pretrained(f"{base}.*"):
            tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
            raise InputError(_unknown(f"weights of timm:{base}", weights, tags))
        network = _fetch(lambda: timm.create_model(tagged, pretrained=True), f"timm:{base}", weights)
    return _with_own_normalisation(network)


def _load_python(name: str, weights: str | None) -> LoadedNetwork:
    module_name, _, attribute = name.partition(":")
    if weights is not None and not _is_file(weights):
        msg = f"model.weights of a python source is a file named {', '.join(SUFFIXES)}, got '{weights}'."
        raise InputError(msg)
    with _current_folder_importable():
        found: Any = _import_own(module_name)
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise InputError(_unknown(f"attribute of python:{module_name}", attribute, vars(found)))
            found = getattr(found, part)
        made = found() if callable(found) and not isinstance(found, nn.Module) else found
    if not isinstance(made, nn.Module):
        msg = f"python:{name} gives a {type(made).__name__}, expected a torch.nn.Module or a function that returns one."
        raise InputError(msg)
    if weights is not None:
        put_weights(made, read_weights(Path(weights).expanduser()), weights)
    return _with_own_normalisation(made)


def _build(make: Callable[..., nn.Module], source: str, weights: str | None) -> nn.Module:
    """Make a network for the classes that the weights were trained on, and fill it."""
    network = make()
    if weights is None:
        logger.warning("%s has no trained weights, as model.weights is not set: its numbers are random", source)
        return network
    tensors = read_weights(Path(weights).expanduser())
    classes = find_class_count(network, tensors)
    if classes is not None:
        network = make(num_classes=classes)
    put_weights(network, tensors, weights)
    return network


def _fetch(make: Callable[[], nn.Module], source: str, tag: str) -> nn.Module:
    try:
        return make()
    except Exception as error:  # downloads fail in many ways
        msg = (
            f"The weights '{tag}' of {source} cannot be fetched: {error}. Download them elsewhere and set "
            "model.weights to the file."
        )
        raise InputError(msg) from error


def _import_optional(name: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        msg = f"This model.source needs {package}; install it with: pip install 'dfq-plugin[vision]' ({error})."
        raise InputError(msg) from error


def _import_own(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's own code runs here
        msg = (
            f"python:{name} cannot be imported from {Path.cwd()} or the installed packages: "
            f"{type(error).__name__}: {error}."
        )
        raise InputError(msg) from error


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.append(here)  # last, so that nothing lying there hides an installed package
    try:
        yield
    finally:
        sys.path.remove(here)


def _with_own_normalisation(network: nn.Module) -> LoadedNetwork:
    published = getattr(network, "pretrained_cfg", None) or {}  # timm's, and whoever follows its custom
    return LoadedNetwork(network, *_normalisation(published.get("mean"), published.get("std")))


def _normalisation(
    mean: Iterable[float] | None, std: Iterable[float] | None
) -> tuple[Normalisation | None, Normalisation | None]:
    if mean is None or std is None:
        return None, None
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def _is_file(weights: str) -> bool:
    return Path(weights).suffix in SUFFIXES or "/" in weights or Path(weights).is_file()


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    listed = sorted(entry for entry in known if not entry.startswith("_"))
    close = difflib.get_close_matches(name, listed, n=1)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    shown = f" There are: {', '.join(listed)}." if len(listed) <= 12 else ""
    return f"There is no {what} '{name}'.{guess}{shown}"
