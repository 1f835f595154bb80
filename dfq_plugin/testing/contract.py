"""The checks that every provider has to pass, whoever wrote it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from dfq_plugin.providers.base import GenerationRequest, Provider
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts, read_facts
from dfq_plugin.testing.networks import tiny_teacher


class ProviderContract:
    """Inherit from this in a test file and name the provider; pytest then runs every check on it.

    For example::

        class TestAcmeNoise(ProviderContract):
            provider = AcmeNoise(steps=2)

    Class attributes:
        provider: The provider, with settings that make it quick.
        num_samples: Images to ask for; best no multiple of the provider's batch size.
        keeps_batches: True when the provider keeps finished batches in ``request.checkpoint_folder``.
        seed_matters: False for a provider that gives the same images for every seed.
    """

    provider: ClassVar[Provider]
    num_samples: ClassVar[int] = 5
    keeps_batches: ClassVar[bool] = False
    seed_matters: ClassVar[bool] = True

    def make_teacher(self) -> tuple[nn.Module, ModelFacts]:
        """Give the network that the provider is tried on, with its facts; override it for other needs."""
        teacher = tiny_teacher()
        return teacher, read_facts(teacher, (3, 8, 8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

    def generate(self, *, seed: int = 0, folder: Path | None = None, num_samples: int | None = None) -> SyntheticSet:
        """Run the provider once."""
        teacher, facts = self.make_teacher()
        return self.provider(teacher, facts, GenerationRequest(num_samples or self.num_samples, seed, folder))

    def test_result_is_what_was_asked_for(self) -> None:
        for num_samples in (1, self.num_samples):
            found = self.generate(num_samples=num_samples)  # shape, type and finiteness are checked by the call
            assert len(found) == num_samples, f"{len(found)} images for num_samples={num_samples}"
            assert found.provenance.provider == self.provider.name, "provenance names another provider"
            assert found.provenance.settings == self.provider.model_dump(mode="json"), "provenance has other settings"

    def test_same_seed_gives_same_images_when_global_random_state_differs(self) -> None:
        with _global_random_state(1):
            first = self.generate(seed=3)
        with _global_random_state(2):
            second = self.generate(seed=3)
        _assert_equal(first, second, "the same seed gave two different sets; draw from your own torch.Generator")

    def test_other_seed_gives_other_images(self) -> None:
        same = torch.equal(self.generate(seed=3).images, self.generate(seed=4).images)
        assert not (same and self.seed_matters), "two seeds gave the same images"

    def test_global_random_state_is_untouched(self) -> None:
        with _global_random_state(5):
            expected = _draw()
        with _global_random_state(5):
            self.generate()
            found = _draw()
        assert found == expected, "the caller's random state was moved"

    def test_teacher_is_given_back_as_it_came(self) -> None:
        teacher, facts = self.make_teacher()
        teacher.train()
        before = [parameter.requires_grad for parameter in teacher.parameters()]
        self.provider(teacher, facts, GenerationRequest(self.num_samples, seed=0))  # raises when anything was changed
        assert all(module.training for module in teacher.modules()), "the training mode was not put back"
        assert [parameter.requires_grad for parameter in teacher.parameters()] == before, "requires_grad was moved"
        assert read_facts(teacher, facts.input_shape).digest == facts.digest, "the weights or buffers were changed"

    def test_images_are_the_same_when_caller_runs_without_gradients(self) -> None:
        with torch.no_grad():
            without = self.generate()
        _assert_equal(without, self.generate(), "the set depends on whether the caller has gradients switched on")

    def test_every_setting_says_what_it_is_and_where_its_default_comes_from(self) -> None:
        for name, field in type(self.provider).model_fields.items():
            extra = field.json_schema_extra
            source = extra.get("source") if isinstance(extra, dict) else None
            assert isinstance(source, str), f"setting '{name}' cites no source; declare it with cited()"
            assert source, f"setting '{name}' cites an empty source"
            assert field.description, f"setting '{name}' has no description"

    def test_settings_survive_json(self) -> None:
        settings = json.loads(json.dumps(self.provider.model_dump(mode="json")))
        assert type(self.provider)(**settings) == self.provider, "settings read back from JSON are not the same"

    def test_resumed_run_equals_unbroken_one(self, tmp_path: Path) -> None:
        unbroken = self.generate()
        self.generate(folder=tmp_path)
        files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        assert bool(files) == self.keeps_batches, f"keeps_batches is {self.keeps_batches}, but the files are {files}"
        for place, file in enumerate(files):  # as after a kill: one batch done, one half-written, the rest to come
            if place == 1:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            elif place > 1:
                file.unlink()
        _assert_equal(self.generate(folder=tmp_path), unbroken, "a resumed run gave another set than an unbroken one")


def _assert_equal(found: SyntheticSet, expected: SyntheticSet, message: str) -> None:
    for name in ("images", "labels", "soft_labels"):
        left, right = getattr(found, name), getattr(expected, name)
        assert (left is None) == (right is None), f"{message} ({name})"
        assert left is None or torch.equal(left, right), f"{message} ({name})"


def _draw() -> tuple[float, float, float]:
    """Draw from each of the global random number generators."""
    return torch.rand(1).item(), random.random(), np.random.random()  # noqa: S311, NPY002 - the global ones are meant


@contextmanager
def _global_random_state(seed: int) -> Iterator[None]:
    """Set the global random states and put the caller's back in the end."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is meant
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state is meant
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002 - the global state is meant
