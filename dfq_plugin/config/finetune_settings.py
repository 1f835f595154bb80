"""The settings of the stage ``finetune``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dfq_plugin.config.base import Count, Positive, Seed, Settings


class FinetuneSettings(Settings):
    """How the student learns from the teacher on the synthetic images."""

    epochs: Annotated[int, Field(ge=0)] = Field(default=0, description="Passes over the images; 0 is no fine-tuning.")
    lr: Positive = Field(
        default=3e-3, description="Change of a weight tensor per step, as a fraction of its root mean square."
    )
    batch_size: Count = Field(default=32, description="Images a batch.")
    temperature: Positive = Field(default=4.0, description="Softening of the logits in the `kl` loss.")
    range_lr_multiplier: Annotated[float, Field(ge=0)] = Field(
        default=0.3, description="Learning rate of the quantizer ranges, as a multiple of `lr`; 0 keeps them fixed."
    )
    loss: Literal["kl", "mse"] = Field(
        default="kl", description="Distance between the student's and the teacher's logits."
    )
    loss_scale: Positive = Field(default=1.0, description="Factor on the distillation loss.")
    augment: bool = Field(default=True, description="Shift the images by up to a tenth and mirror half of them.")
    seed: Seed = Field(default=0, description="Seed of the order and the shifts of the images.")
