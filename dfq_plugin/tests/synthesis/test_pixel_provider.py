from __future__ import annotations

from typing import Any

import pytest
import torch

from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.synthesis.folding import FoldedBatchNorm
from dfq_plugin.synthesis.pixel_provider import BatchNormProvider
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher

METHODS = ("adadfq", "deepinversion", "gdfq", "genie", "gznq", "intraq", "qimera", "zeroq")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_compute_in_bfloat16(name: str) -> None:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8))

    def images(**settings: Any) -> torch.Tensor:
        return build_provider(name, {"steps": 3, "batch_size": 4, **settings})(
            teacher, facts, GenerationRequest(4, 0)
        ).images

    exact, rough = images(), images(precision="bfloat16")
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.isfinite(rough).all()


@pytest.mark.parametrize("name", METHODS)
def test_steps_run_a_folded_copy(name: str) -> None:
    teacher, provider = tiny_teacher(), build_provider(name, {})
    assert isinstance(provider, BatchNormProvider)
    copied = provider.watched_copy(teacher, read_facts(teacher, (3, 8, 8)))
    assert sum(isinstance(layer, FoldedBatchNorm) for layer in copied.modules()) == 2
