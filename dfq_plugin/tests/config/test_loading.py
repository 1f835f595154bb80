from __future__ import annotations

import ast
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfq_plugin.config import Config, convert, explain, json_schema, load_config
from dfq_plugin.errors import ConfigError
from dfq_plugin.tests.config.samples import load

FULL: dict[str, Any] = {
    "model": {"source": "torchvision:resnet18", "weights": "DEFAULT"},
    "input_info": {"sample_size": [1, 3, 32, 32]},
    "compression": [
        {
            "algorithm": "quantization",
            "weights": {"bits": 4},
            "activations": {"bits": 4, "mode": "asymmetric"},
            "ignored_scopes": ["{re}head", "Net/NNCFConv2d[c]/conv2d_0"],
            "scope_overrides": {"weights": {"Net/NNCFConv2d[d]/conv2d_0": {"bits": 2}}},
            "initializer": {"range": {"num_init_samples": 64, "type": "percentile", "params": {"min_percentile": 1}}},
            "overflow_fix": "enable",
        },
        {"algorithm": "knowledge_distillation", "type": "softmax", "scale": 2.0},
    ],
    "calibration": {"provider": "zeroq", "params": {"steps": 10, "layers": [1, 2], "nested": {"a": None}}},
    "finetune": {"epochs": 3},
    "validate": {"images": "folder:val"},
    "output_dir": "out",
}


def test_resolved_config_loads_as_an_equal_one_without_notes() -> None:
    config = load_config(FULL)
    again = load_config(config.resolved())
    assert again == config
    assert again.notes == ()
    assert again.resolved() == config.resolved()


def test_resolved_config_loads_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(load_config(FULL).resolved()), encoding="utf-8")
    assert load_config(path) == load_config(str(path)) == load_config(FULL)


@settings(max_examples=25, deadline=None)
@given(
    weight_bits=st.integers(2, 8),
    first_last=st.none() | st.integers(2, 8),
    overrides=st.dictionaries(
        st.text(min_size=1).filter(lambda key: "|" not in key and "{" not in key), st.integers(2, 8)
    ),
    params=st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers(), st.lists)),
    lr=st.floats(1e-9, 1e9),
)
def test_round_trip_law(
    weight_bits: int, first_last: int | None, overrides: dict[str, int], params: dict[str, Any], lr: float
) -> None:
    quantize = {"weight_bits": weight_bits, "first_last_bits": first_last, "bit_overrides": overrides}
    config = load(quantize=quantize, calibration={"params": params}, finetune={"lr": lr})
    assert config.quantize.bit_overrides == overrides
    assert config.calibration.params == params
    assert load_config(config.resolved()) == config


def test_both_spellings_of_a_job_give_the_same_config() -> None:
    new = {
        "model": FULL["model"],
        "input_shape": [3, 32, 32],
        "calibration": FULL["calibration"],
        "quantize": {
            "weight_bits": 4,
            "activation_bits": 4,
            "preset": "mixed",
            "ignored_scopes": {"names": ["c/conv2d/0"], "patterns": [".*(?:head)"]},
            "bit_overrides": {"d/conv2d/0|WEIGHT": 2},
            "num_init_samples": 64,
            "weight_range": "min_max",
            "activation_range": "mean_percentile",
            "percentiles": [1.0, 99.9],
            "overflow_fix": "enable",
        },
        "finetune": {"epochs": 3, "loss": "kl", "loss_scale": 2.0, "temperature": 1.0},
        "validate": {"images": "folder:val"},
        "output_dir": "out",
    }
    assert load_config(new) == load_config(FULL)


def test_conversion_keeps_the_meaning_and_says_only_what_was_said() -> None:
    new = convert(FULL)
    assert load_config(new) == load_config(FULL)
    assert convert(new) == new
    assert "compression" not in new
    assert "input_info" not in new
    assert "export" not in new
    assert list(new) == ["model", "input_shape", "calibration", "quantize", "finetune", "validate", "output_dir"]


def test_conversion_leaves_out_what_an_old_file_does_not_say() -> None:
    old = {"input_info": {"sample_size": [1, 3, 8, 8]}, "compression": {"algorithm": "quantization", "preset": "mixed"}}
    assert convert(old) == {"input_shape": [3, 8, 8], "quantize": {"preset": "mixed"}}
    assert convert({}) == {}


def test_conversion_refuses_what_loading_refuses() -> None:
    with pytest.raises(ConfigError, match="/compression/algorithm"):
        convert({"compression": {"algorithm": "rb_sparsity"}})


def test_same_thing_may_be_said_twice_alike() -> None:
    compression = {"algorithm": "quantization", "weights": {"bits": 4}}
    config = load(quantize={"weight_bits": 4}, compression=compression, input_info={"sample_size": [1, 3, 8, 8]})
    assert config.quantize.weight_bits == 4


@pytest.mark.parametrize(
    ("override", "name", "expected"),
    [
        ("quantize.weight_bits=3", "quantize.weight_bits", 3),
        ("compression.0.weights.bits=5", "quantize.weight_bits", 5),
        ("input_shape=[3, 64, 64]", "input_shape", [3, 64, 64]),
        ("input_info.sample_size=[1, 3, 16, 16]", "input_shape", [3, 16, 16]),
        ("calibration.params.steps=99", "calibration.params", {"steps": 99, "layers": [1, 2], "nested": {"a": None}}),
        ("calibration.params={}", "calibration.params", {}),
        ("finetune={epochs: 7}", "finetune.epochs", 7),
        ("finetune={epochs: 7}", "finetune.loss", "kl"),
        ("quantize.weight_range=mse", "quantize.weight_range", "mse"),
        ("model.source=timm:other", "model.source", "timm:other"),
        ("target_device=VPU", "target_device", "NPU"),
        ("export.packing=int4", "export.packing", "int4"),
    ],
)
def test_override_wins_over_the_file(override: str, name: str, expected: Any) -> None:
    found: Any = load_config(FULL, [override]).resolved()
    for key in name.split("."):
        found = found[key]
    assert found == expected


def test_override_of_a_section_replaces_all_of_it() -> None:
    assert load("finetune={lr: 1}", finetune={"epochs": 3}).finetune.epochs == 0


def test_last_override_wins() -> None:
    assert load("quantize.weight_bits=3", "quantize.weight_bits=5").quantize.weight_bits == 5


def test_override_does_not_touch_the_mapping_it_was_given_with() -> None:
    before = json.dumps(FULL)
    load_config(FULL, ["compression.0.weights.bits=5", "calibration.params.steps=1"])
    assert json.dumps(FULL) == before


def test_file_with_comments_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        '{\n  // the network\n  "model": {"source": "timm:tiny"},  // tiny\n  "input_shape": [3, 8, 8],\n}\n',
        encoding="utf-8",
    )
    assert load_config(path) == load()


def test_schema_key_for_editors_is_accepted() -> None:
    assert load(**{"$schema": "dfq.schema.json"}) == load()


def test_explanation_tells_value_and_place_of_every_setting() -> None:
    config = load_config(FULL, ["finetune.lr=0.5"])
    lines = explain(config).splitlines()
    table = {line.split()[0]: line for line in lines[1 : lines.index("")]}
    assert table["quantize.weight_bits"].split()[1:] == ["4", "/compression/0/weights/bits"]
    assert table["input_shape"].endswith("/input_info/sample_size")
    assert table["finetune.lr"].endswith("--set finetune.lr")
    assert table["finetune.temperature"].endswith("/compression/1 (default of NNCF 2.x)")
    assert table["export.opset"].split()[1:] == ["21", "default"]
    assert "calibration.params.steps" in table
    assert any(line.startswith(("ignored", "approximated")) for line in lines)


def test_explanation_says_that_a_network_of_ones_own_is_code_that_runs() -> None:
    own = explain(load(model={"source": "python:my.models:make"}))
    assert "This config runs code: a job imports Python's module 'my.models'" in own
    assert "runs code" not in explain(load())


def test_explanation_has_a_line_for_every_setting_and_no_notes_when_nothing_is_noted() -> None:
    names = [line.split()[0] for line in explain(load()).splitlines()[1:]]
    sections = {name.split(".")[0] for name in names}
    assert sections == {field.alias or name for name, field in Config.model_fields.items()}
    assert {"calibration.params", "quantize.bit_overrides", "quantize.ignored_scopes.names"} <= set(names)


def test_notes_that_weaken_a_request_are_warned_about(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    compression = {"algorithm": "quantization", "weights": {"mode": "asymmetric"}, "params": {"base_lr": 1}}
    logger = logging.getLogger("nncf.dfq_plugin.config")
    caplog.set_level(logging.INFO, logger=logger.name)
    monkeypatch.setattr(logger, "propagate", False)  # nncf, when it is imported, keeps records from the root logger
    logger.addHandler(caplog.handler)
    try:
        config = load(compression=compression)
    finally:
        logger.removeHandler(caplog.handler)
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.WARNING, logging.INFO]
    assert sum(note.level in {"approximated", "ignored"} for note in config.notes) == 2


class TestSchema:
    def test_holds_both_spellings(self) -> None:
        schema = json_schema()
        assert {"model", "quantize", "validate", "input_info", "compression", "$schema"} <= schema["properties"].keys()
        assert schema["additionalProperties"] is False
        assert schema["required"] == ["model"]

    def test_every_reference_leads_somewhere(self) -> None:
        schema = json_schema()
        text = json.dumps(schema)
        names = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
        assert names <= schema["$defs"].keys()
        assert {"nncf2_Quantization", "nncf2_KnowledgeDistillation", "nncf2_InputInfo"} <= names

    def test_bounds_are_in_it(self) -> None:
        field = json_schema()["$defs"]["QuantizeSettings"]["properties"]["weight_bits"]
        assert (field["minimum"], field["maximum"], field["default"]) == (2, 8, 8)

    def test_is_made_anew_each_time(self) -> None:
        json_schema()["properties"].clear()
        assert json_schema()["properties"]


def test_no_file_of_the_config_imports_torch_or_nncf() -> None:
    files = list((Path(__file__).parents[2] / "config").glob("*.py"))
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "pydantic" in names
    assert not {"torch", "nncf", "onnx", "onnxruntime"} & {name.split(".")[0] for name in names}
