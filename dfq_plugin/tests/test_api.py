"""The Python interface: names that are there, settings as keywords, and errors that name the setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dfq_plugin as dfq
from dfq_plugin import api
from dfq_plugin.config import Config, ExportSettings, FinetuneSettings, QuantizeSettings, ValidateSettings
from dfq_plugin.errors import ConfigError, DFQError, UnsupportedModelError
from dfq_plugin.synthetic_set import Provenance, SyntheticSet
from dfq_plugin.testing import tiny_teacher

STUDENT: Any = object()
SYNTHETIC = SyntheticSet(torch.zeros(2, 3, 8, 8), None, None, Provenance("x", {}, 0, "", {}, ""))


class Recorder:
    """Stands in for a stage and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any, **named: Any) -> None:
        self.calls.append((*arguments, *named.values()))


@pytest.fixture
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    module, name = request.param
    monkeypatch.setattr(getattr(api, module), name, recorder)
    return recorder


@pytest.mark.parametrize("name", dfq.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(dfq, name) is not None
    assert name in dir(dfq)


def test_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dfq_plugin' has no attribute 'nothing'"):
        _ = dfq.nothing


def test_all_that_is_listed_lazily_is_public() -> None:
    assert set(dfq.__all__) == {*dfq._HOMES, "__version__"}
    assert set(api.__all__) == {name for name, home in dfq._HOMES.items() if home == "api"}


class TestGenerate:
    def ask(self, **changes: Any) -> SyntheticSet:
        options = {"provider": "noise", "input_shape": (3, 8, 8), "num_samples": 3, "cache": False}
        return dfq.generate(tiny_teacher(), **{**options, **changes})

    def test_images_are_made_as_asked(self) -> None:
        made = self.ask(seed=4, params={"distribution": "uniform"})
        assert made.images.shape == (3, 3, 8, 8)
        assert made.provenance.seed == 4
        assert made.provenance.settings["distribution"] == "uniform"
        assert made.images.abs().max() <= 3**0.5

    def test_same_seed_gives_the_same_images_and_another_seed_others(self) -> None:
        assert torch.equal(self.ask(seed=1).images, self.ask(seed=1).images)
        assert not torch.equal(self.ask(seed=1).images, self.ask(seed=2).images)

    def test_second_request_comes_from_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DFQ_CACHE_DIR", str(tmp_path))
        first = self.ask(cache=True)
        assert len(list(tmp_path.glob("*.safetensors"))) == 1
        assert self.ask(cache=True).provenance == first.provenance
        self.ask(cache=True, mean=[0.5] * 3, std=[0.5] * 3)  # another request: the images would be others
        assert len(list(tmp_path.glob("*.safetensors"))) == 2

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"provider": "intrak"}, ConfigError, "intraq"),
            ({"params": {"distribution": "cauchy"}}, ConfigError, "distribution"),
            ({"num_samples": 0}, ConfigError, "num_samples must be at least 1, got 0"),
            ({"input_shape": (4, 8, 8)}, DFQError, r"refuses an image of shape \(4, 8, 8\)"),
        ],
    )
    def test_what_is_wrong_is_named(self, changes: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            self.ask(**changes)

    def test_network_that_the_provider_cannot_use_is_refused(self) -> None:
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
        with pytest.raises(UnsupportedModelError):
            dfq.generate(network, provider="zeroq", input_shape=(3, 8, 8), num_samples=1, cache=False)


@pytest.mark.parametrize("stage", [("quantization", "quantize")], indirect=True)
def test_quantize_takes_settings_as_keywords(stage: Recorder) -> None:
    network = tiny_teacher()
    dfq.quantize(network, SYNTHETIC, weight_bits=4, first_last_bits=None)
    assert stage.calls == [(network, SYNTHETIC, QuantizeSettings(weight_bits=4, first_last_bits=None), None)]


@pytest.mark.parametrize("stage", [("finetuning", "finetune")], indirect=True)
def test_finetune_takes_settings_as_keywords(stage: Recorder) -> None:
    network = tiny_teacher()
    dfq.finetune(network, STUDENT, SYNTHETIC, epochs=2)
    assert stage.calls == [(network, STUDENT, SYNTHETIC, FinetuneSettings(epochs=2), None, None)]


@pytest.mark.parametrize("stage", [("export", "export_onnx")], indirect=True)
def test_export_takes_settings_as_keywords(stage: Recorder) -> None:
    dfq.export_onnx(STUDENT, "m.onnx", packing="int4")
    assert stage.calls == [(STUDENT, "m.onnx", ExportSettings(packing="int4"))]


@pytest.mark.parametrize("stage", [("validation", "validate")], indirect=True)
def test_validate_takes_settings_as_keywords(stage: Recorder) -> None:
    dfq.validate("m.onnx", STUDENT, SYNTHETIC.images, float_path="f.onnx", latency_runs=3)
    assert stage.calls == [("m.onnx", STUDENT, SYNTHETIC.images, ValidateSettings(latency_runs=3), "f.onnx")]


@pytest.mark.parametrize("stage", [("pipeline", "run")], indirect=True)
def test_run_takes_a_mapping_and_overrides(stage: Recorder) -> None:
    content = {"model": {"source": "timm:tiny"}, "input_shape": [3, 8, 8]}
    dfq.run(content, ["quantize.weight_bits=4"], trackers=[STUDENT])
    ((config, trackers),) = stage.calls
    assert trackers == [STUDENT]
    assert isinstance(config, Config)
    assert config.quantize.weight_bits == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dfq.quantize(tiny_teacher(), SYNTHETIC, weight_bits=9), "weight_bits: got 9"),
        (lambda: dfq.quantize(tiny_teacher(), SYNTHETIC, weight_bit=4), "weight_bit: unknown key.*weight_bits"),
        (lambda: dfq.finetune(tiny_teacher(), STUDENT, SYNTHETIC, lr=-1.0), "lr: got -1"),
        (lambda: dfq.export_onnx(STUDENT, "m.onnx", packing="int3"), "packing: got 'int3'|packing: got \"int3\""),
        (lambda: dfq.validate("m.onnx", STUDENT, SYNTHETIC.images, parity_codes=0), "parity_codes: got 0"),
    ],
    ids=["value", "key", "finetune", "export", "validate"],
)
def test_wrong_setting_is_named_before_any_work(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
