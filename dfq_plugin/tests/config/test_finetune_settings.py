"""What the settings of fine-tuning allow together."""

from __future__ import annotations

from typing import Any

import pytest

from dfq_plugin.config import FinetuneSettings, load_config
from dfq_plugin.errors import ConfigError


def job(**finetune: Any) -> dict[str, Any]:
    return {"model": {"source": "torchvision:resnet18"}, "input_shape": [3, 32, 32], "finetune": finetune}


def test_one_loss_counts_unless_several_are_given() -> None:
    assert FinetuneSettings(loss="mse").loss_weights == {"mse": 1.0}
    assert FinetuneSettings(losses={"kl": 20.0, "cross_entropy": 1.0}).loss_weights == {
        "kl": 20.0,
        "cross_entropy": 1.0,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"losses": {"attention": 1.0}}, "'attention', which compares the maps of layers; name them in feature_layers"),
        ({"feature_layers": ["layer1"]}, "compared by the losses 'feature' and 'attention'"),
        ({"losses": {"feature": 1.0}, "feature_layers": ["{re}("]}, "'{re}(' is not a regular expression"),
        ({"milestones": [3]}, "milestones belong to the schedule 'steps'"),
        ({"losses": {"kul": 1.0}}, "/finetune/losses"),
        ({"losses": {"kl": 0.0}}, "/finetune/losses/kl"),
        ({"momentum": 1.0}, "/finetune/momentum"),
        ({"weight_decay": -1.0}, "/finetune/weight_decay"),
        ({"steps_per_epoch": 0}, "/finetune/steps_per_epoch"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(job(**fields))
    assert message in str(caught.value)


def test_the_papers_recipes_are_allowed() -> None:
    adadfq = {"losses": {"disagreement": 1.0}, "temperature": 20.0}
    schedule = {
        "optimizer": "sgd",
        "lr": 1e-4,
        "weight_decay": 1e-4,
        "schedule": "steps",
        "milestones": [100, 200, 300],
    }
    config = load_config(job(epochs=400, range_lr_multiplier=0, train_batchnorm=True, **adadfq, **schedule))
    assert config.finetune.loss_weights == {"disagreement": 1.0}
    assert load_config(config.resolved()) == config
