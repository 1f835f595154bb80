"""The settings of the stage ``finetune``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dfq_plugin.config.base import Count, Positive, Seed, Settings
from dfq_plugin.config.scopes import compile_scope
from dfq_plugin.errors import ConfigError

Augmentation = Literal["shift", "crop", "none"]
LossName = Literal["kl", "mse", "cross_entropy", "disagreement", "feature", "attention"]


class FinetuneSettings(Settings):
    """How the student learns from the teacher on the synthetic images."""

    epochs: Annotated[int, Field(ge=0)] = Field(default=0, description="Passes over the images; 0 is no fine-tuning.")
    lr: Positive = Field(
        default=3e-3,
        description="Change of a weight tensor per step, as a fraction of its root mean square; with `sgd` an "
        "ordinary learning rate.",
    )
    batch_size: Count = Field(default=32, description="Images a batch; online providers have their own.")
    steps_per_epoch: Count | None = Field(
        default=None,
        description="Batches an epoch; null is one pass over the images. Online providers have their own.",
    )
    temperature: Positive = Field(
        default=4.0, description="Softening of the logits in the losses `kl` and `disagreement`."
    )
    range_lr_multiplier: Annotated[float, Field(ge=0)] = Field(
        default=0.3, description="Learning rate of the quantizer ranges, as a multiple of `lr`; 0 keeps them fixed."
    )
    weight_range: Literal["learned", "min_max"] = Field(
        default="learned",
        description="Learn the ranges of weights, or take them anew at every step from their least to their largest "
        "value, as in the papers.",
    )
    loss: Literal["kl", "mse"] = Field(
        default="kl", description="Distance between the student's and the teacher's logits."
    )
    loss_scale: Positive = Field(default=1.0, description="Factor on the distillation loss.")
    losses: dict[LossName, Positive] = Field(
        default={},
        description="Losses by weight, added up, instead of `loss`: `kl`, `mse`, `cross_entropy` (with the labels), "
        "`disagreement` (AdaDFQ), `feature` and `attention` (of `feature_layers`).",
    )
    kl_reduction: Literal["batchmean", "mean"] = Field(
        default="batchmean", description="Sum the `kl` loss over the classes, or average it, as GDFQ and Qimera do."
    )
    feature_layers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(),
        description="Teacher's layers whose outputs `feature` and `attention` compare, by name or `{re}` pattern; "
        "without any, `feature` compares the pooled features.",
    )
    optimizer: Literal["adam", "sgd"] = Field(
        default="adam",
        description="Adam with rates relative to each tensor's size, or SGD with Nesterov momentum and absolute rates, "
        "as in the papers.",
    )
    momentum: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.9, description="Momentum of `sgd`.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="Pull of `sgd` towards zero, on everything that is trained; 1e-4 in the papers."
    )
    schedule: Literal["cosine", "steps"] = Field(
        default="cosine", description="Let the rates fall along a cosine, or by ten at each of the `milestones`."
    )
    milestones: tuple[Count, ...] = Field(
        default=(), description="Epochs after which `steps` divides the rates by ten."
    )
    calibration_batches: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Batches at the start that set the activation ranges anew, by moving averages of their extremes; "
        "0 keeps those of `quantize`.",
    )
    train_batchnorm: bool = Field(
        default=False, description="Train scale and shift of BatchNorm layers that were not folded."
    )
    augment: Augmentation = Field(
        default="shift",
        description="Shift each batch by up to a tenth and mirror half of them, or enlarge a part of each image, at "
        "least a quarter of it, and mirror half of the images; with `none` the teacher is asked about each image once.",
    )
    seed: Seed = Field(default=0, description="Seed of the order and the views of the images.")

    @model_validator(mode="after")
    def _check_what_belongs_together(self) -> FinetuneSettings:
        for name in self.feature_layers:
            compile_scope(name)
        if "attention" in self.losses and not self.feature_layers:
            msg = "losses has 'attention', which compares the maps of layers; name them in feature_layers"
            raise ConfigError(msg)
        if self.feature_layers and not {"feature", "attention"} & self.losses.keys():
            msg = "feature_layers are compared by the losses 'feature' and 'attention'; add one of them to losses"
            raise ConfigError(msg)
        if self.milestones and self.schedule != "steps":
            msg = "milestones belong to the schedule 'steps'; set schedule, or drop them"
            raise ConfigError(msg)
        return self

    @property
    def loss_weights(self) -> dict[LossName, float]:
        """Every loss that counts, with its weight."""
        return dict(self.losses) or {self.loss: 1.0}
