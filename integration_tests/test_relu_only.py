"""The quantizer of the papers: where it stands, which grid it has, that it trains, and that it is never exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.config import ExportSettings, FinetuneSettings, load_config
from dfq_plugin.errors import ConfigError, ExportError
from dfq_plugin.export import export_onnx
from dfq_plugin.finetuning import finetune
from dfq_plugin.pipeline import run
from dfq_plugin.quantization import load_student, save_student
from dfq_plugin.student import Student
from integration_tests.students import make_set, student_of

BITS = 3


class Residual(nn.Module):
    """Two convolutions around a shortcut, a pool and a classifier; what leaves the last ReLU is only pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.branch = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.relu, self.last, self.classifier = nn.ReLU(), nn.ReLU6(), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.relu(self.norm(self.stem(images)))
        joined: Tensor = self.last(self.branch(stem) + stem)
        return self.classifier(joined.mean(dim=(2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


def make(teacher: nn.Module, **fields: Any) -> Student:
    wanted = {"placement": "relu_only", "weight_bits": BITS, "activation_bits": BITS, "first_last_bits": None}
    return student_of(teacher, **{**wanted, "rounding": "nearest", "bias_correction": "none", **fields})


@pytest.fixture
def student(teacher: nn.Module) -> Student:
    return make(teacher)


def weights_of(student: Student) -> dict[str, tuple[Tensor, Any]]:
    return {
        layer.operator: (student.network.get_parameter(layer.weight), student.quantizer(str(layer.weight_quantizer)))
        for layer in student.layers
    }


def test_quantizers_stand_on_weights_and_behind_relus_and_nowhere_else(student: Student) -> None:
    places = [(site.kind, site.layer) for site in student.sites]
    assert sorted(places) == [
        ("activation", "last/hardtanh/0"),
        ("activation", "relu/relu/0"),
        ("weight", "branch/conv2d/0"),
        ("weight", "classifier/linear/0"),
        ("weight", "stem/conv2d/0"),
    ]
    assert {entry.applied for entry in student.plan} == {BITS}  # what is only pooled is no exception


def test_a_weight_has_a_range_from_its_least_to_its_largest_value_for_each_channel(student: Student) -> None:
    for weight, quantizer in weights_of(student).values():
        rounded = quantizer(weight)
        for channel, own in zip(weight, rounded, strict=True):
            low, high = min(channel.min().item(), 0.0), max(channel.max().item(), 0.0)
            values = own.unique()
            assert len(values) <= 2**BITS
            step = (high - low) / (2**BITS - 1)
            # Zero has a code, for which the range grows by less than one step in all.
            assert low - step < values.min() <= low + step / 2
            assert high - step / 2 <= values.max() < high + step
            assert (own - channel).abs().max() <= 0.51 * step * (1 + 1 / (2**BITS - 2))


def test_squant_keeps_codes_in_range_and_balances_channels(teacher: nn.Module, student: Student) -> None:
    squant = make(teacher, rounding="squant")
    for name, (weight, _) in weights_of(squant).items():
        layer = next(layer for layer in squant.layers if layer.operator == name)
        grid = squant.grid(squant.site(str(layer.weight_quantizer)))
        codes = weight / grid.step.reshape(-1, *[1] * (weight.ndim - 1))
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        shifted = codes.round() + grid.zero_point.reshape(-1, *[1] * (weight.ndim - 1))
        assert grid.low <= shifted.min()
        assert shifted.max() <= grid.high
        exact = weights_of(student)[name][0]
        assert ((weight - exact).flatten(1).sum(1).abs() <= 0.51 * grid.step).float().mean() >= 0.5


def test_ranges_follow_the_weights_while_they_learn(teacher: nn.Module, student: Student) -> None:
    before = {name: weight.clone() for name, (weight, _) in weights_of(student).items()}
    settings = FinetuneSettings(epochs=2, batch_size=8, weight_range="min_max", calibration_batches=3)
    finetune(teacher, student, make_set(), settings)
    for name, (weight, quantizer) in weights_of(student).items():
        assert not torch.equal(weight, before[name])
        axes = tuple(range(1, weight.ndim))
        low = weight.amin(axes).clamp(max=0.0)
        assert torch.equal(quantizer.input_low.flatten(), low)
        assert torch.equal(quantizer.input_range.flatten(), weight.amax(axes).clamp(min=0.0) - low)


def test_biases_stay_in_float(teacher: nn.Module, student: Student) -> None:
    for name in ("branch.bias", "classifier.bias"):
        assert torch.equal(student.network.get_parameter(f"network.{name}"), teacher.get_parameter(name))


def test_it_can_be_saved_and_read_back(teacher: nn.Module, student: Student, tmp_path: Path) -> None:
    save_student(student, tmp_path)
    images = make_set().images
    assert torch.equal(load_student(tmp_path, teacher)(images), student(images))


def test_it_is_never_exported(student: Student, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"stem/conv2d/0: its weight has zero points.*'deployable'"):
        export_onnx(student, tmp_path / "model.onnx", ExportSettings())
    assert not list(tmp_path.iterdir())


def test_a_job_that_would_end_in_a_file_is_refused_before_it_starts(tmp_path: Path) -> None:
    config = load_config(
        {
            "model": {"source": "torchvision:resnet18"},
            "input_info": {"sample_size": [1, 3, 32, 32]},
            "quantize": {"placement": "relu_only"},
            "output_dir": str(tmp_path / "out"),
        }
    )
    with pytest.raises(ConfigError, match=r"quantize.placement 'relu_only'.*`dfq finetune`"):
        run(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"weight_range": "mse"}, "weight_range"),
        ({"reconstruction": {"steps": 3}}, "reconstruction.steps"),
        ({"overflow_fix": "enable"}, "overflow_fix"),
        ({"allocation": {"average_weight_bits": 4}}, "allocation"),
        ({"quantize_outputs": True}, "quantize_outputs"),
    ],
)
def test_what_the_papers_quantizer_knows_nothing_of_is_refused(
    teacher: nn.Module, fields: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match=f"'relu_only' is the quantizer of the papers.*{name}"):
        make(teacher, **fields)
