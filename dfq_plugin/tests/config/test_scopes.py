from __future__ import annotations

import pytest

from dfq_plugin.config import legacy_name, match_scopes, split_quantizer_scope, translate_scope
from dfq_plugin.errors import ConfigError

NAMES = [
    "conv1/conv2d/0",
    "layer1/0/conv1/conv2d/0",
    "layer1/0/add_/0",
    "layer10/conv2d/0",
    "relu/relu_/0",
    "/flatten/0",
]
TYPES = {
    "": "ResNet",
    "layer1": "Sequential",
    "layer1.0": "BasicBlock",
    "layer1.0.conv1": "Conv2d",
    "relu": "ReLU",
    "odd": "OddConv",
}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ResNet/Sequential[layer1]/BasicBlock[0]/NNCFConv2d[conv1]/conv2d_0", "layer1/0/conv1/conv2d/0"),
        ("ResNet/flatten_0", "/flatten/0"),
        ("ResNet/ReLU[relu]/relu__0", "relu/relu_/0"),
        ("ResNet/Sequential[layer1]/BasicBlock[0]/__iadd___1", "layer1/0/add_/1"),
        ("Net/adaptive_avg_pool2d_12", "/adaptive_avg_pool2d/12"),
        ("ResNet/NNCFLinear[fc]", "fc"),
        ("UNet/ModuleList[down_path]/UNetConvBlock[1]", "down_path/1"),
    ],
)
def test_old_name_is_translated(old: str, new: str) -> None:
    assert translate_scope(old) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("__add__", "add"),
        ("__radd__", "add"),
        ("__iadd__", "add_"),
        ("__sub__", "sub"),
        ("__isub__", "sub_"),
        ("__mul__", "mul"),
        ("__rmul__", "mul"),
        ("__imul__", "mul_"),
        ("__matmul__", "matmul"),
        ("__truediv__", "div"),
        ("__itruediv__", "div_"),
        ("__rtruediv__", "__rdiv__"),
        ("__neg__", "neg"),
        ("__pow__", "pow"),
        ("__getitem__", "__getitem__"),
        ("cat", "cat"),
        ("mean", "mean"),
    ],
)
def test_operators_get_the_names_of_nncf3(old: str, new: str) -> None:
    assert translate_scope(f"Net/{old}_0") == f"/{new}/0"


@pytest.mark.parametrize(
    "scope", ["{re}ResNet/.*conv", "layer1/0/conv1/conv2d/0", "/flatten/0", "fc", "/nncf_model_input_0", "a/b"]
)
def test_scope_comes_back_unchanged_when_it_is_no_old_name(scope: str) -> None:
    assert translate_scope(scope) == scope


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("layer1/0/conv1/conv2d/0", "ResNet/Sequential[layer1]/BasicBlock[0]/NNCFConv2d[conv1]/conv2d_0"),
        ("layer1/0/add_/0", "ResNet/Sequential[layer1]/BasicBlock[0]/__iadd___0"),
        ("layer1/0/add/1", "ResNet/Sequential[layer1]/BasicBlock[0]/__add___1"),
        ("relu/relu_/0", "ResNet/ReLU[relu]/relu__0"),
        ("/flatten/0", "ResNet/flatten_0"),
        ("other/conv2d/0", "ResNet/NNCFConv2d[other]/conv2d_0"),
        ("odd/conv2d/0", "ResNet/OddConv[odd]/conv2d_0"),
        ("x", None),
        ("conv1.weight", None),
        ("a/b/c", None),
    ],
)
def test_old_name_is_reconstructed_from_module_classes(new: str, old: str | None) -> None:
    assert legacy_name(new, TYPES) == old


def test_translation_undoes_reconstruction() -> None:
    assert [translate_scope(legacy_name(name, TYPES) or "") for name in NAMES] == NAMES


def test_old_name_has_stand_ins_when_classes_are_unknown() -> None:
    assert legacy_name("layer1/fc/linear/0") == "Model/Module[layer1]/NNCFLinear[fc]/linear_0"


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("conv1/conv2d/0", ["conv1/conv2d/0"]),
        ("layer1", ["layer1/0/conv1/conv2d/0", "layer1/0/add_/0"]),
        ("conv1", ["conv1/conv2d/0"]),
        ("ResNet/NNCFConv2d[conv1]/conv2d_0", ["conv1/conv2d/0"]),
        ("ResNet/Sequential[layer1]", ["layer1/0/conv1/conv2d/0", "layer1/0/add_/0"]),
        ("ResNet/ReLU[relu]/relu_0", ["relu/relu_/0"]),
        ("relu/relu/0", ["relu/relu_/0"]),
        ("{re}conv1", ["conv1/conv2d/0", "layer1/0/conv1/conv2d/0"]),
        ("{re}^conv1", ["conv1/conv2d/0"]),
        (r"{re}ResNet/Sequential\[layer1\].*conv2d_0", ["layer1/0/conv1/conv2d/0"]),
        ("{re}add_/0", ["layer1/0/add_/0"]),
        ("{re}BasicBlock", ["layer1/0/conv1/conv2d/0", "layer1/0/add_/0"]),
        ("layer", []),
    ],
)
def test_scope_matches(scope: str, expected: list[str]) -> None:
    assert match_scopes([scope], NAMES, module_types=TYPES) == expected


def test_matches_keep_the_order_of_the_names_and_come_once() -> None:
    assert match_scopes(["relu", "{re}conv1", "conv1"], NAMES) == [NAMES[0], NAMES[1], NAMES[4]]


@pytest.mark.parametrize(("scope", "expected"), [("/nncf_model_input_1", ["mask"]), ("/nncf_model_input_2", [])])
def test_old_input_name_stands_for_the_input_in_that_place(scope: str, expected: list[str]) -> None:
    assert match_scopes([scope], ["image", "mask", *NAMES], inputs=("image", "mask")) == expected


def test_unmatched_scope_is_an_error_with_the_nearest_names_when_required() -> None:
    with pytest.raises(ConfigError, match=r"'conv2/conv2d/0' matches no operation; .*conv1/conv2d/0"):
        match_scopes(["conv1", "conv2/conv2d/0"], NAMES, require=True)
    assert match_scopes(["conv2/conv2d/0"], NAMES) == []


def test_pattern_is_refused_when_it_has_a_syntax_error() -> None:
    with pytest.raises(ConfigError, match="is not a regular expression"):
        match_scopes(["{re}("], NAMES)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("conv|WEIGHT", ("conv", "WEIGHT")),
        ("conv|INPUT", ("conv", "INPUT")),
        ("conv|OUTPUT", ("conv", "OUTPUT")),
        ("conv", ("conv", None)),
        ("{re}a|b|WEIGHT", ("{re}a|b", "WEIGHT")),
        ("{re}a|b", ("{re}a|b", None)),
    ],
)
def test_quantizer_group_is_split_off_the_end(key: str, expected: tuple[str, str | None]) -> None:
    assert split_quantizer_scope(key) == expected


@pytest.mark.parametrize("key", ["", "|WEIGHT", "{re}|OUTPUT"])
def test_quantizer_scope_is_refused_when_it_names_nothing(key: str) -> None:
    with pytest.raises(ConfigError, match="names no operation"):
        split_quantizer_scope(key)
