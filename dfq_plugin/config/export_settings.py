"""The settings of the stages ``export`` and ``validate``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dfq_plugin.config.base import Count, Settings

MOST_BITS = {"none": 8, "int4": 4, "int2": 2, "bitplanes": 7}  # of a weight that a packing can make smaller
Baseline = Annotated[
    str,
    Field(
        pattern=r"^(noise|folder:.+|safetensors:.+)$",
        json_schema_extra={"allowed": "'noise', 'folder:DIR' or 'safetensors:FILE'"},
    ),
]


class ExportSettings(Settings):
    """How the ONNX file is written."""

    packing: Literal["none", "int4", "int2", "bitplanes"] = Field(
        default="none",
        description="Store weights of 4 bits or less two to a byte (`int4`), those of 2 bits four to a byte (`int2`), "
        "or any below 8 bits without waste (`bitplanes`).",
    )
    opset: Annotated[int, Field(ge=21)] = Field(default=21, description="ONNX operator set of the file.")


class ValidateSettings(Settings):
    """How the ONNX file is checked."""

    images: str = Field(
        default="none",
        pattern=r"^(none|folder:.+|safetensors:.+)$",
        description="Labelled images to measure accuracy on.",
        json_schema_extra={"allowed": "'folder:DIR', 'safetensors:FILE' or 'none'"},
    )
    held_out: Annotated[int, Field(ge=0)] = Field(
        default=32, description="Fresh synthetic images to measure agreement on when `images` is none; 0 makes none."
    )
    parity_codes: Count = Field(
        default=10_000_000, description="Number of integer codes to compare with the reference, as far as images last."
    )
    parity_tolerance: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Codes may differ from the reference by this much, for CPUs whose kernels round otherwise.",
    )
    latency_runs: Annotated[int, Field(ge=0)] = Field(default=50, description="Timed runs; 0 measures no latency.")
    require_integer: bool = Field(default=True, description="Fail when a layer that was to be quantized runs in float.")
    baselines: tuple[Baseline, ...] = Field(
        default=(),
        description="Quantize once more with the same settings on `noise` or on real images, and measure that as well.",
    )
