from __future__ import annotations

from dataclasses import replace

import pydantic
import pytest
import torch

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.providers.deepinversion import DeepInversion
from dfq_plugin.providers.genie import Genie
from dfq_plugin.providers.gznq import GZNQ
from dfq_plugin.providers.intraq import IntraQ
from dfq_plugin.providers.zeroq import ZeroQ
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher

Plateau = ZeroQ | IntraQ | GZNQ | Genie
EVERY_PLATEAU = pytest.mark.parametrize("cls", [ZeroQ, IntraQ, GZNQ, Genie])


@pytest.mark.parametrize("cls", [ZeroQ, IntraQ, GZNQ, Genie, DeepInversion])
def test_teacher_without_batchnorm_is_refused_with_the_way_out(cls: type[Plateau | DeepInversion]) -> None:
    facts = replace(read_facts(tiny_teacher(), (3, 8, 8)), batchnorm_layers=())
    with pytest.raises(UnsupportedModelError, match=f"'{cls.name}' .*BatchNorm.*'noise' and 'folder'"):
        cls().requires(facts)


@EVERY_PLATEAU
def test_floor_of_the_step_size_must_not_lie_above_it(cls: type[Plateau]) -> None:
    with pytest.raises(pydantic.ValidationError, match=r"min_learning_rate \(0.2\) is above learning_rate \(0.1\)"):
        cls(learning_rate=0.1, min_learning_rate=0.2)


@EVERY_PLATEAU
@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("batch_size", 0), ("learning_rate", 0.0), ("patience", -1), ("min_learning_rate", 0.0)],
)
def test_settings_out_of_bounds_are_refused(cls: type[Plateau], field: str, value: float) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        cls(**{field: value})


@EVERY_PLATEAU
def test_pixel_settings_are_those_of_the_provider(cls: type[Plateau]) -> None:
    settings = cls(steps=7, batch_size=3, learning_rate=0.25, patience=1, min_learning_rate=0.2).pixel_settings()
    assert (settings.provider, settings.steps, settings.batch_size, settings.learning_rate) == (cls.name, 7, 3, 0.25)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=settings.learning_rate)
    adapt = settings.rule(optimizer)
    for _ in range(3):
        adapt(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.2
