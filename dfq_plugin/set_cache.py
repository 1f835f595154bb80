"""Synthetic sets that were made before: the same request twice costs one generation."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from torch import nn

from dfq_plugin.batches import BatchSource
from dfq_plugin.config import CalibrationSettings, Config
from dfq_plugin.errors import InputError
from dfq_plugin.files import remove_drafts
from dfq_plugin.locks import claim
from dfq_plugin.machine import set_cache_folder
from dfq_plugin.processes import processes
from dfq_plugin.providers.base import GenerationRequest, Provider, checkpoint_folder, find_problem, request_key
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts, Teacher

logger = logging.getLogger("nncf.dfq_plugin.synthesize")


def synthesize(settings: CalibrationSettings, teacher: Teacher) -> SyntheticSet:
    """Make the synthetic set that the config asks for, or take it from the cache.

    Raises:
        ConfigError: the provider or one of its settings does not exist.
        UnsupportedModelError: the provider cannot use this teacher.
    """
    provider = build_provider(settings.provider, settings.params)
    request = GenerationRequest(settings.num_samples, settings.seed)
    return generate_cached(provider, teacher.network, teacher.facts, request, cache=settings.cache)[0]


def learning_data(config: Config, teacher: Teacher, synthetic: SyntheticSet) -> SyntheticSet | BatchSource:
    """What the student learns from: batches of an online provider, which adapt to it, or else the synthetic set."""
    if not config.finetune.epochs:
        return synthetic
    settings = config.calibration
    provider = build_provider(settings.provider, settings.params)
    request = GenerationRequest(settings.num_samples, settings.seed)
    return provider.source(teacher.network, teacher.facts, request) or synthetic


def is_cached(settings: CalibrationSettings, facts: ModelFacts) -> bool:
    """Whether ``synthesize`` would take the set from the cache instead of making it."""
    provider = build_provider(settings.provider, settings.params)
    request = GenerationRequest(settings.num_samples, settings.seed)
    file = set_cache_folder() / f"{request_key(provider, facts, request)}.safetensors"
    return settings.cache and provider.cacheable and file.is_file()


def generate_cached(
    provider: Provider,
    teacher: nn.Module,
    facts: ModelFacts,
    request: GenerationRequest,
    *,
    cache: bool,
    root: Path | None = None,
) -> tuple[SyntheticSet, bool]:
    """Make a synthetic set, or take the one that the same request has made before.

    The request is the same when teacher, input shape, provider (with its settings and revision), seed and number of
    images are. A generation that was killed goes on where it stopped. Processes may share the folder, and those of one
    job have to.

    Args:
        provider: The method with its settings.
        teacher: The float network.
        facts: Its facts.
        request: How many images, from which seed.
        cache: False makes the set anew and keeps nothing.
        root: Folder of the cache; None for ``DFQ_CACHE_DIR`` or else the user's cache folder.

    Returns:
        The set, and whether it came from the cache.
    """
    if not cache or not provider.cacheable:
        return provider(teacher, facts, request), False
    folder = set_cache_folder() if root is None else root
    file = folder / f"{request_key(provider, facts, request)}.safetensors"
    crew = processes()
    with _only_maker_of(file) if crew.is_main else nullcontext():
        found = _read(file, facts, request) if crew.is_main else None
        if crew.agree(on=found is not None) and not crew.is_main:
            found = _read_too(file, facts, request)
        if found is not None:
            logger.info("Synthetic set of %d images by '%s' taken from %s", len(found), provider.name, file)
            return found, True
        return _make(provider, teacher, facts, request, file), False


def _make(
    provider: Provider, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest, file: Path
) -> SyntheticSet:
    """Make a set and keep it in ``file``; its batches are kept meanwhile."""
    if request.checkpoint_folder is None:
        request = replace(request, checkpoint_folder=file.parent / "parts")
    made = provider(teacher, facts, request)
    if not processes().is_main:
        return made
    try:
        made.save(file)
    except OSError as error:
        logger.warning("The synthetic set is not kept in the cache: %s", error)
    parts = checkpoint_folder(provider, facts, request)
    if parts is not None:
        shutil.rmtree(parts, ignore_errors=True)
    return made


@contextmanager
def _only_maker_of(file: Path) -> Iterator[None]:
    """Wait while another process makes the same set; where the folder takes no lock, several may make it at once."""
    with ExitStack() as held:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(claim(file.with_suffix(".lock"), _say_that_it_waits))
            remove_drafts(file.parent, of=file.name)
        except OSError as error:
            logger.debug("No lock in the cache: %s", error)
        yield


def _say_that_it_waits(holder: str) -> None:
    logger.info("Waiting for %s, which is making the same synthetic set", holder)


def _read_too(file: Path, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
    """Read what the main process has found.

    Raises:
        InputError: it is not there for this one.
    """
    found = _read(file, facts, request)
    if found is None:
        msg = f"The main process of this job found its synthetic set in the cache, and this one has no {file}; all "
        msg += (
            "processes need the same folder: set DFQ_CACHE_DIR to one that they share, or calibration.cache to false."
        )
        raise InputError(msg)
    return found


def _read(file: Path, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet | None:
    if not file.is_file():
        return None
    try:
        found = SyntheticSet.load(file)
    except InputError as error:
        logger.warning("The synthetic set in the cache is made again: %s", error)
        return None
    problem = find_problem(found, facts, request)
    if problem:
        logger.warning("The synthetic set in the cache is made again: %s holds %s", file, problem)
        return None
    return found
