"""Recipes fill in what a config leaves open, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from dfq_plugin.config import Config, load_config
from dfq_plugin.errors import ConfigError

RECIPES = ("fast", "balanced", "best")


def config(recipe: str | None, *overrides: str, **sections: Any) -> Config:
    said = {"input_shape": [3, 8, 8], **({} if recipe is None else {"recipe": recipe})}
    return load_config({"model": {"source": "timm:any"}, **said, **sections}, overrides)


def low(recipe: str, **sections: Any) -> Config:
    return config(recipe, quantize={"weight_bits": 4, "activation_bits": 4}, **sections)


def test_fast_makes_no_images() -> None:
    for found in (config("fast"), low("fast")):
        assert found.calibration.provider == "none"
        assert found.quantize.reconstruction.steps == 0
        assert found.finetune.epochs == 0


def test_better_recipes_do_more_and_low_bits_more_than_eight() -> None:
    balanced, best, low_balanced, low_best = (
        (found.calibration.num_samples, found.quantize.reconstruction.steps)
        for found in (config("balanced"), config("best"), low("balanced"), low("best"))
    )
    assert balanced < best < low_best
    assert balanced < low_balanced < low_best


@pytest.mark.parametrize("kind", ["weight_bits", "activation_bits"])
def test_one_kind_of_low_bits_is_enough(kind: str) -> None:
    assert config("balanced", quantize={kind: 5}) != config("balanced", quantize={kind: 8})
    assert config("balanced", quantize={kind: 5}).quantize.reconstruction.steps > 0


@pytest.mark.parametrize(("shape", "large"), [([3, 64, 64], False), ([3, 65, 8], True), ([3, 8, 224], True)])
@pytest.mark.parametrize("recipe", ["balanced", "best"])
def test_low_bits_of_large_images_are_rounded_by_moments(recipe: str, shape: list[int], large: bool) -> None:
    found = config(recipe, input_shape=shape, quantize={"weight_bits": 4})
    assert (found.quantize.rounding == "gptq") == large
    assert (found.quantize.reconstruction.steps == 0) == large
    parts = [part["provider"] for part in found.calibration.params["parts"]]
    assert parts == (["dead_leaves", "fractal", "auto"] if large else ["auto", "fractal"])
    assert (found.finetune.epochs > 0) == (recipe == "best")


@pytest.mark.parametrize("recipe", RECIPES)
def test_eight_bits_are_the_same_for_images_of_any_size(recipe: str) -> None:
    small, large = (config(recipe, input_shape=[3, side, side]) for side in (32, 224))
    assert large.model_copy(update={"input_shape": small.input_shape}) == small


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_said_wins(recipe: str) -> None:
    found = low(recipe, calibration={"num_samples": 7}, finetune={"epochs": 3})
    assert found.calibration.num_samples == 7
    assert found.finetune.epochs == 3
    assert found.calibration.provider == low(recipe).calibration.provider


def test_the_command_line_wins() -> None:
    found = config("best", "quantize.reconstruction.steps=9", "quantize.weight_bits=4")
    assert found.quantize.reconstruction.steps == 9
    assert found.calibration.num_samples == low("best").calibration.num_samples
    low_steps = low("best").quantize.reconstruction.steps  # the recipe looks at the bits of the command line
    assert config("best", "quantize.weight_bits=4").quantize.reconstruction.steps == low_steps


def test_a_recipe_can_be_chosen_on_the_command_line() -> None:
    assert config(None, 'recipe="fast"').calibration == config("fast").calibration


def test_bits_of_nncf2_count() -> None:
    compression = {"algorithm": "quantization", "weights": {"bits": 4}, "activations": {"bits": 4}}
    expected = low("best").quantize.reconstruction
    assert config("best", compression=compression).quantize.reconstruction == expected
    assert expected != config("best").quantize.reconstruction


def test_another_provider_keeps_its_own_parameters() -> None:
    found = low("balanced", calibration={"provider": "noise"})
    assert found.calibration.params == {}
    assert found.quantize.reconstruction.steps > 0


def test_parameters_without_a_provider_are_those_of_the_default_one() -> None:
    found = low("balanced", calibration={"params": {"steps": 5}})
    assert found.calibration.provider == config(None).calibration.provider
    assert found.calibration.params == {"steps": 5}
    assert found.calibration.num_samples == low("balanced").calibration.num_samples


def test_without_a_recipe_the_sections_have_their_own_defaults() -> None:
    assert config(None).calibration.provider == "intraq"
    assert config(None).recipe is None


@pytest.mark.parametrize("recipe", RECIPES)
def test_origins_name_the_recipe(recipe: str) -> None:
    assert low(recipe).origins["calibration.provider"] == f"recipe '{recipe}'"


@pytest.mark.parametrize("recipe", RECIPES)
def test_resolved_config_is_the_same_job(recipe: str) -> None:
    assert load_config(low(recipe).resolved()) == low(recipe)


def test_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"/recipe: .*'fast', 'balanced'"):
        config("quick")


@pytest.mark.parametrize("said", [[], {}, 3, {"fast": 1}])
def test_a_recipe_that_is_no_name_is_refused(said: object) -> None:
    with pytest.raises(ConfigError, match=r"/recipe"):
        load_config({"model": {"source": "timm:any"}, "input_shape": [3, 8, 8], "recipe": said})
