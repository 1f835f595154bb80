"""Generations leave nothing behind in the process that makes them."""

from __future__ import annotations

import pytest

import dfq_plugin as dfq
from dfq_plugin.testing import tiny_teacher
from integration_tests.soak import Growth, ends_of_line, soak


@pytest.mark.parametrize("provider", ["zeroq", "intraq"])
def test_no_tensor_stays_and_the_teacher_keeps_no_hook(provider: str) -> None:
    teacher = tiny_teacher()
    growth = soak(teacher, 6, provider)
    assert growth.tensors[0] == growth.tensors[1]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())


def test_what_is_kept_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, generate = [], dfq.generate
    monkeypatch.setattr(dfq, "generate", lambda *given, **more: kept.append(generate(*given, **more)))
    growth = soak(tiny_teacher(), 6)
    assert growth.tensors[1] > growth.tensors[0]


def test_growth_is_that_of_the_line_and_not_of_single_values() -> None:
    assert ends_of_line([1.0, 2.0, 3.0]) == pytest.approx((1.0, 3.0))
    assert ends_of_line([100.0, 100.0, 130.0, 100.0, 100.0]) == pytest.approx((106.0, 106.0))
    assert Growth(100.0, 103.0, (1, 1)).share == pytest.approx(0.03)
