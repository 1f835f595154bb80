from __future__ import annotations

import pytest

from dfq_plugin.synthesis.presets import fill_from_preset

PRESETS = {"plain": {"a": 1, "b": 2}, "bold": {"a": 10, "b": 20}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, {"a": 1, "b": 2}, id="default"),
        pytest.param({"preset": "bold"}, {"preset": "bold", "a": 10, "b": 20}, id="named"),
        pytest.param({"preset": "bold", "a": 0}, {"preset": "bold", "a": 0, "b": 20}, id="explicit_value_wins"),
        pytest.param({"a": None, "c": None}, {"a": 1, "b": 2, "c": None}, id="none_is_filled_if_the_preset_has_it"),
        pytest.param({"preset": "odd"}, {"preset": "odd", "a": 1, "b": 2}, id="unknown_name_is_left_to_the_field"),
        pytest.param({"preset": ["bold"]}, {"preset": ["bold"], "a": 1, "b": 2}, id="name_that_is_no_text"),
        pytest.param("nonsense", "nonsense", id="no_mapping"),
    ],
)
def test_settings_are_filled_from_the_preset(given: object, expected: object) -> None:
    assert fill_from_preset(given, PRESETS, "plain") == expected
