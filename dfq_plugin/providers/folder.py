"""Real images: the baseline that a data-free method is measured against.

No paper. Objective: none; the images are drawn without replacement from a folder or a file, and prepared the way the
teacher was trained.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import pydantic
import torch
from torch import nn

from dfq_plugin.errors import ConfigError
from dfq_plugin.images import open_images
from dfq_plugin.providers.base import GenerationRequest, Provider, cited
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts

BASELINE = "this project: real images as a baseline"


@register_provider
class Folder(Provider):
    """Take real images from a folder, or from a safetensors file, in an order that the seed decides."""

    name: ClassVar[str] = "folder"
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "real images; the mean and std that the teacher was trained with"
    cacheable: ClassVar[bool] = False  # the files may change under the same path

    path: Path = cited(..., BASELINE, "Folder of images, or a .safetensors file with 'images' uint8 (N, C, H, W).")
    resize: int | None = cited(
        None,
        "this project: 256 / 224 of the crop, as ImageNet classifiers are evaluated",
        "Short side in pixels before the crop; left out, an image that already has the network's size stays as it is.",
        ge=1,
    )
    label_pattern: str | None = cited(
        None, BASELINE, "Regular expression whose first group, searched in the file name, is the label."
    )

    @pydantic.field_validator("label_pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                msg = f"is not a regular expression ({error})"
                raise ValueError(msg) from error
            if groups < 1:
                msg = "must have a group around the label, such as 'class([0-9]+)_'"
                raise ValueError(msg)
        return pattern

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:  # noqa: ARG002
        source = open_images(self.path.expanduser(), facts, resize=self.resize, label_pattern=self.label_pattern)
        if request.num_samples > len(source):
            msg = f"num_samples is {request.num_samples}, but {self.path} holds {len(source)} images; ask for fewer."
            raise ConfigError(msg)
        random = torch.Generator().manual_seed(request.seed)
        chosen = torch.randperm(len(source), generator=random)[: request.num_samples]
        found = source.read(chosen.tolist())
        return SyntheticSet(found.images, found.labels, None, self.provenance(facts, request))
