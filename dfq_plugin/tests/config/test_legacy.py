from __future__ import annotations

from typing import Any

import pytest

from dfq_plugin.config import load_config
from dfq_plugin.config.legacy_removed import OTHER_ALGORITHMS, SCRIPT_KEYS
from dfq_plugin.errors import ConfigError
from dfq_plugin.tests.config.samples import BASE, levels_at, load, problem, value_of

MODEL = {"model": BASE["model"]}
QUANTIZATION = {"algorithm": "quantization"}
DISTILLATION = {"algorithm": "knowledge_distillation", "type": "softmax"}


@pytest.mark.parametrize("wrap", [lambda info: info, lambda info: [info]], ids=["object", "array"])
def test_input_info_gives_the_shape_without_the_batch(wrap: Any) -> None:
    config = load_config(MODEL | {"input_info": wrap({"sample_size": [7, 1, 16, 24], "type": "float"})})
    assert config.input_shape == (1, 16, 24)


@pytest.mark.parametrize("field", ["filler", "keyword"])
def test_input_field_is_ignored_with_a_note(field: str) -> None:
    config = load_config(MODEL | {"input_info": {"sample_size": [1, 3, 8, 8], field: "ones"}})
    assert levels_at(config, f"/input_info/{field}") == ["ignored"]


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"sample_size": [1, 3, 8, 8], "type": "long"}, "/input_info/type: 'long' is no image"),
        ({"sample_size": [1, 128]}, "/input_info/sample_size: got [1, 128], expected [batch, channels, height, width]"),
        ([{"sample_size": [1, 3, 8, 8]}] * 2, "/input_info: 2 inputs are listed"),
        ([], "/input_info: 0 inputs are listed"),
        ({}, "/input_info/sample_size: missing; give a list of integers of at least 1"),
        (
            {"sample_size": [1, 3, 8, 8], "sampl_size": 1},
            "/input_info/sampl_size: unknown key. Did you mean 'sample_size'?",
        ),
        ([{"sample_size": [1, 3, 0, 8]}], "/input_info/0/sample_size/2: got 0, expected an integer of at least 1"),
    ],
)
def test_input_info_is_refused(info: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(MODEL | {"input_info": info})
    assert expected in str(caught.value)
    assert "problems" not in str(caught.value)  # the shape that is missing as a consequence is not mentioned


@pytest.mark.parametrize(
    ("device", "expected", "levels"),
    [
        ("ANY", "ANY", []),
        ("CPU", "CPU", []),
        ("GPU", "GPU", []),
        ("NPU", "NPU", []),
        ("VPU", "NPU", ["approximated"]),
        ("TRIAL", "ANY", ["approximated"]),
        ("NONE", "ANY", ["approximated"]),
    ],
)
def test_target_device_is_mapped(device: str, expected: str, levels: list[str]) -> None:
    config = load(target_device=device)
    assert config.target_device == expected
    assert levels_at(config, "/target_device") == levels


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("CPU_SPR", "'CPU_SPR' is not offered by NNCF 3.x for PyTorch; write 'CPU'"),
        ("TPU", "got 'TPU', expected 'ANY', 'CPU', 'GPU', 'NPU', 'VPU', 'TRIAL' or 'NONE'"),
        (3, "got 3, expected 'ANY'"),
    ],
)
def test_target_device_is_refused(device: Any, expected: str) -> None:
    assert f"/target_device: {expected}" in problem(target_device=device)


@pytest.mark.parametrize(
    ("key", "value", "name", "expected"),
    [
        ("compression_lr_multiplier", 0.5, "finetune.range_lr_multiplier", 0.5),
        ("log_dir", "logs", "output_dir", "logs"),
    ],
)
def test_root_key_is_mapped(key: str, value: Any, name: str, expected: Any) -> None:
    config = load(**{key: value})
    assert value_of(config, name) == expected
    assert levels_at(config, f"/{key}") == ["mapped"]


def test_shape_matching_is_ignored_with_a_note() -> None:
    assert levels_at(load(disable_shape_matching=True), "/disable_shape_matching") == ["ignored"]


def test_accuracy_aware_training_is_refused_with_the_way_out() -> None:
    assert "set finetune.epochs" in problem(accuracy_aware_training={"mode": "early_exit"})


def test_script_keys_are_ignored_with_one_note_for_all() -> None:
    config = load(**dict.fromkeys(SCRIPT_KEYS, 1))
    (note,) = config.notes
    assert note.level == "ignored"
    assert all(key in note.message for key in SCRIPT_KEYS)
    assert config == load()


@pytest.mark.parametrize(
    ("pretrained", "weights"), [({"pretrained": True}, "IMAGENET1K_V1"), ({"pretrained": False}, None), ({}, None)]
)
def test_model_name_of_the_script_is_taken_from_torchvision(pretrained: dict[str, Any], weights: str | None) -> None:
    config = load(model="resnet18", **pretrained)
    assert (config.model.source, config.model.weights) == ("torchvision:resnet18", weights)
    assert levels_at(config, "/model") == ["approximated"]


def test_model_text_is_a_source_when_it_has_a_colon() -> None:
    assert load(model="timm:tiny") == load()


@pytest.mark.parametrize("name", OTHER_ALGORITHMS)
def test_other_algorithm_is_refused_with_the_way_out(name: str) -> None:
    assert f"/compression/algorithm: '{name}' is not done here; {OTHER_ALGORITHMS[name]}" in problem(
        compression={"algorithm": name, "whatever": 1}
    )


@pytest.mark.parametrize(
    ("compression", "expected"),
    [
        ({}, "/compression/algorithm: missing; expected 'quantization' or 'knowledge_distillation'"),
        (5, "/compression/algorithm: missing"),
        ({"algorithm": "quantisation"}, "'quantisation' is not done here; expected 'quantization' or"),
        ([QUANTIZATION, {"algorithm": "rb_sparsity"}], "/compression/1/algorithm: 'rb_sparsity' is not done here"),
        ([QUANTIZATION, QUANTIZATION], "/compression/1/algorithm: 'quantization' stands at /compression/0 already"),
        ({"algorithm": "knowledge_distillation"}, "/compression/type: missing; give 'mse' or 'softmax'"),
        (DISTILLATION | {"temp": 1}, "/compression/temp: unknown key. Did you mean 'temperature'?"),
        (DISTILLATION | {"type": "kl"}, "/compression/type: got 'kl', expected 'mse' or 'softmax'"),
    ],
)
def test_algorithms_are_refused(compression: Any, expected: str) -> None:
    assert expected in problem(compression=compression)


@pytest.mark.parametrize(
    ("fields", "loss", "scale", "temperature"),
    [
        ({"type": "softmax"}, "kl", 1.0, 1.0),
        ({"type": "softmax", "temperature": 3}, "kl", 1.0, 3.0),
        ({"type": "mse", "scale": 10}, "mse", 10.0, 4.0),
    ],
)
def test_distillation_becomes_the_loss(fields: dict[str, Any], loss: str, scale: float, temperature: float) -> None:
    finetune = load(compression=[QUANTIZATION, DISTILLATION | fields]).finetune
    assert (finetune.loss, finetune.loss_scale, finetune.temperature) == (loss, scale, temperature)


def test_temperature_of_the_old_default_gives_way_when_one_is_said() -> None:
    assert load(compression=DISTILLATION, finetune={"temperature": 2.0}).finetune.temperature == 2.0


def test_temperature_is_ignored_with_a_note_when_the_loss_has_none() -> None:
    config = load(compression=DISTILLATION | {"type": "mse", "temperature": 3})
    assert levels_at(config, "/compression/temperature") == ["ignored"]


@pytest.mark.parametrize(("epochs", "levels"), [(0, ["default"]), (3, [])])
def test_distillation_tells_when_fine_tuning_is_off(epochs: int, levels: list[str]) -> None:
    assert levels_at(load(compression=DISTILLATION, finetune={"epochs": epochs}), "/compression") == levels


DEFAULT_NOTES: dict[str, dict[str, Any]] = {
    "first and the last layer": {"quantize": {"first_last_bits": None}},
    "overflow_fix": {"quantize": {"overflow_fix": "enable"}},
    "mixed_min_max": {"quantize": {"activation_range": "mse"}},
    "re-estimated": {"compression": {"initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}}},
}


@pytest.mark.parametrize("text", DEFAULT_NOTES)
def test_default_is_noted_unless_the_file_speaks_of_it(text: str) -> None:
    silent: dict[str, Any] = {"algorithm": "quantization", "weights": {"bits": 4}}
    said = DEFAULT_NOTES[text]
    spoken = said | {"compression": silent | said.get("compression", {})}
    assert [note.level for note in load(compression=silent).notes if text in note.message] == ["default"]
    assert not [note for note in load(**spoken).notes if text in note.message and note.level == "default"]


def test_default_of_first_and_last_layer_is_not_noted_at_eight_bits() -> None:
    assert not [note for note in load(compression=QUANTIZATION).notes if "last layer" in note.message]


def test_no_default_is_noted_without_an_old_algorithm() -> None:
    assert load(quantize={"weight_bits": 4}).notes == ()


def test_example_of_the_old_scripts_loads() -> None:
    config = load_config(
        {
            "model": "mobilenet_v2",
            "pretrained": True,
            "input_info": {"sample_size": [2, 3, 224, 224]},
            "num_classes": 1000,
            "batch_size": 200,
            "epochs": 60,
            "multiprocessing_distributed": True,
            "target_device": "TRIAL",
            "compression": {
                "algorithm": "quantization",
                "weights": {"mode": "asymmetric", "per_channel": True, "bits": 4},
                "activations": {"mode": "asymmetric"},
                "quantize_inputs": True,
                "initializer": {
                    "precision": {
                        "type": "manual",
                        "bitwidth_per_scope": [
                            [4, "MobileNetV2/Sequential[classifier]/NNCFLinear[1]/linear_0|WEIGHT"],
                            [8, "/nncf_model_input_0|OUTPUT"],
                        ],
                    },
                    "range": {"num_init_samples": 256, "type": "mean_percentile"},
                    "batchnorm_adaptation": {"num_bn_adaptation_samples": 2000},
                },
                "params": {"activations_quant_start_epoch": 0, "base_lr": 3.1e-4},
            },
        }
    )
    assert config.quantize.weight_bits == 4
    assert config.quantize.preset == "mixed"
    assert config.quantize.bit_overrides == {"classifier/1/linear/0|WEIGHT": 4, "/nncf_model_input_0|OUTPUT": 8}
