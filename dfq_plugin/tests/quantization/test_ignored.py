"""Scopes that keep operators in float: names of both NNCF generations, patterns, types."""

from __future__ import annotations

from typing import Any

import pytest

from dfq_plugin.config import load_config
from dfq_plugin.config.quantize_settings import IgnoredScopes
from dfq_plugin.errors import ConfigError
from dfq_plugin.quantization.ignored import ignored_operators
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.tests.quantization.networks import Branches, traced


@pytest.fixture(scope="module")
def graph() -> OperatorGraph:
    return traced(Branches())[1]


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        pytest.param({}, [], id="none"),
        pytest.param({"names": ["left/conv2d/0"]}, ["network/left/conv2d/0"], id="name"),
        pytest.param({"names": ["left"]}, ["network/left/conv2d/0"], id="module"),
        pytest.param({"names": ["/relu/1"]}, ["network/relu/1"], id="operator_of_the_network_itself"),
        pytest.param({"names": ["Branches/NNCFConv2d[left]/conv2d_0"]}, ["network/left/conv2d/0"], id="2.x_name"),
        pytest.param({"names": ["/nncf_model_input_0"]}, ["images"], id="2.x_input"),
        pytest.param({"patterns": ["l"]}, ["network/left/conv2d/0", "network/last/conv2d/0"], id="pattern"),
        pytest.param({"patterns": [".*NNCFLinear"]}, ["network/fc/linear/0"], id="2.x_pattern"),
        pytest.param({"types": ["cat", "linear"]}, ["network/cat/0", "network/fc/linear/0"], id="types"),
        pytest.param(
            {"names": ["fc"], "patterns": ["fc"], "types": ["cat"]}, ["network/cat/0", "network/fc/linear/0"], id="all"
        ),
    ],
)
def test_scopes_become_names_of_nncf_in_order(
    graph: OperatorGraph, scopes: dict[str, Any], expected: list[str]
) -> None:
    assert ignored_operators(graph, IgnoredScopes.model_validate(scopes)) == expected


@pytest.mark.parametrize(
    ("scopes", "message"),
    [
        pytest.param({"names": ["left/conv2d/7"]}, "'left/conv2d/7' matches no operation.*left/conv2d/0", id="name"),
        pytest.param({"patterns": ["layer9"]}, "layer9", id="pattern"),
        pytest.param({"types": ["conv2"]}, "no operator of type 'conv2'; did you mean 'conv2d'", id="type"),
        pytest.param({"types": ["lstm"]}, "no operator of type 'lstm'; there are cat, conv2d", id="far_type"),
    ],
)
def test_a_scope_that_matches_nothing_is_an_error(graph: OperatorGraph, scopes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ignored_operators(graph, IgnoredScopes.model_validate(scopes))
    tolerant = IgnoredScopes.model_validate({**scopes, "validate_scopes": False})
    assert ignored_operators(graph, tolerant) == []


def test_target_scopes_of_nncf_2_ignore_everything_else_but_the_input(graph: OperatorGraph) -> None:
    config = load_config(
        {
            "model": {"source": "timm:any"},
            "input_info": {"sample_size": [1, 3, 8, 8]},
            "compression": {"algorithm": "quantization", "target_scopes": ["Branches/NNCFConv2d[left]/conv2d_0"]},
        }
    )
    ignored = ignored_operators(graph, config.quantize.ignored_scopes)
    assert "network/left/conv2d/0" not in ignored
    assert "images" not in ignored
    assert {"network/right/conv2d/0", "network/last/conv2d/0", "network/fc/linear/0"} <= set(ignored)
