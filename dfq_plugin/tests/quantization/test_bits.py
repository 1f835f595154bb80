"""The bit plan: its rules, its overrides, and its summary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from nncf.torch.quantization.layers import SymmetricQuantizer

from dfq_plugin.config import QuantizeSettings, load_config
from dfq_plugin.errors import ConfigError, InputError
from dfq_plugin.quantization.bits import apply_bits, plan_bits, summarise, write_plan
from dfq_plugin.student import BitAssignment, ProductLayer, QuantizerSite
from dfq_plugin.tests.quantization.networks import asymmetric, symmetric

# images -> stem -> relu -> block -> relu -> (concatenated with the stem's) -> add -> pool -> fc
WEIGHTS = [
    QuantizerSite(f"pre_hooks.{name}__1.0", "weight", name, (name,), multiplied=True)
    for name in ("stem/conv2d/0", "block/0/conv2d/0", "fc/linear/0")
]
IMAGE = QuantizerSite(
    "post_hooks.images__0.0", "activation", "images", ("stem/conv2d/0",), multiplied=True, is_input=True
)
RELU = QuantizerSite(
    "post_hooks.stem/relu/0__0.0", "activation", "stem/relu/0", ("block/0/conv2d/0", "/add/0"), multiplied=True
)
BLOCK = QuantizerSite(
    "post_hooks.block/0/relu/0__0.0",
    "activation",
    "block/0/relu/0",
    ("/add/0",),
    multiplied=False,
    others=("block/1/relu/0",),
)
POOL = QuantizerSite("post_hooks./mean/0__0.0", "activation", "/mean/0", ("fc/linear/0",), multiplied=True)
SITES = [*WEIGHTS, IMAGE, RELU, BLOCK, POOL]
LAYERS = [
    ProductLayer(site.layer, "w", "b", site.name, source.name)
    for site, source in zip(WEIGHTS, (IMAGE, RELU, POOL), strict=True)
]
MODULE_TYPES = {"": "Net", "stem": "Stem", "block": "Sequential", "block.0": "Block", "fc": "Linear"}


def plan(sites: list[QuantizerSite] | None = None, **settings: Any) -> dict[str, tuple[int, int, str]]:
    """Requested and applied bits and the reason, by kind and operator."""
    full = QuantizeSettings.model_validate({"weight_bits": 3, "activation_bits": 5, **settings})
    entries = plan_bits(sites or SITES, LAYERS, full, MODULE_TYPES)
    return {f"{entry.kind} {entry.layer}": (entry.requested, entry.applied, entry.reason) for entry in entries}


def test_every_rule_has_its_place() -> None:
    assert plan(first_last_bits=6, residual_bits=7) == {
        "weight stem/conv2d/0": (3, 6, "first layer"),
        "weight block/0/conv2d/0": (3, 3, "requested"),
        "weight fc/linear/0": (3, 6, "last layer"),
        "activation images": (5, 8, "network input"),
        "activation stem/relu/0": (5, 5, "requested"),
        "activation block/0/relu/0": (5, 7, "no product reads it"),
        "activation /mean/0": (5, 6, "last layer"),
    }


def test_defaults_keep_first_last_and_residual_at_eight_bits() -> None:
    bits = {key: applied for key, (_, applied, _) in plan().items()}
    assert bits["weight stem/conv2d/0"] == bits["weight fc/linear/0"] == bits["activation /mean/0"] == 8
    assert bits["activation block/0/relu/0"] == 8


def test_first_and_last_layer_are_as_the_rest_when_first_last_bits_is_none() -> None:
    planned = plan(first_last_bits=None)
    assert planned["weight stem/conv2d/0"] == (3, 3, "requested")
    assert planned["weight fc/linear/0"] == (3, 3, "requested")
    assert planned["activation /mean/0"] == (5, 5, "requested")
    assert planned["activation images"] == (5, 8, "network input")


def test_input_of_the_last_layer_is_as_the_rest_when_another_layer_reads_it_too() -> None:
    shared = replace(POOL, readers=("fc/linear/0", "aux/linear/0"))
    assert plan([*SITES[:-1], shared], first_last_bits=6)["activation /mean/0"] == (5, 5, "requested")


def test_residual_bits_are_followed_when_below_the_requested_ones() -> None:
    assert plan(residual_bits=4)["activation block/0/relu/0"] == (5, 4, "no product reads it")


def test_rules_hold_when_the_first_layer_is_in_float() -> None:
    sites = [site for site in SITES if site.layer != "stem/conv2d/0"]
    layers = [replace(LAYERS[0], weight_quantizer=None), *LAYERS[1:]]
    planned = plan_bits(sites, layers, QuantizeSettings(weight_bits=3, activation_bits=5, first_last_bits=6))
    assert [entry.applied for entry in planned if entry.kind == "weight"] == [3, 6]


class TestOverrides:
    @pytest.mark.parametrize(
        ("key", "changed"),
        [
            pytest.param("block/0/conv2d/0", {"weight block/0/conv2d/0"}, id="operator"),
            pytest.param("block/0/conv2d/0|WEIGHT", {"weight block/0/conv2d/0"}, id="weight_of_operator"),
            pytest.param("block/0/conv2d/0|INPUT", {"activation stem/relu/0"}, id="input_of_operator"),
            pytest.param("stem/relu/0|OUTPUT", {"activation stem/relu/0"}, id="output_of_operator"),
            pytest.param("block", {"weight block/0/conv2d/0", "activation block/0/relu/0"}, id="module"),
            pytest.param("block|OUTPUT", {"activation block/0/relu/0"}, id="outputs_of_module"),
            pytest.param("block/1/relu/0", {"activation block/0/relu/0"}, id="second_place_of_a_shared_quantizer"),
            pytest.param("{re}conv|WEIGHT", {"weight stem/conv2d/0", "weight block/0/conv2d/0"}, id="pattern"),
            pytest.param("images", {"activation images"}, id="network_input"),
            pytest.param("/nncf_model_input_0|OUTPUT", {"activation images"}, id="2.x_input"),
            pytest.param("Net/Linear[fc]/linear_0|INPUT", {"activation /mean/0"}, id="2.x_operator"),
            pytest.param("{re}NNCFLinear", {"weight fc/linear/0"}, id="2.x_pattern"),
            pytest.param("{re}Block\\[0\\]/.*relu", {"activation block/0/relu/0"}, id="2.x_pattern_with_class"),
            pytest.param("/add/0|INPUT", {"activation stem/relu/0", "activation block/0/relu/0"}, id="several_readers"),
        ],
    )
    def test_change_exactly_what_they_name(self, key: str, changed: set[str]) -> None:
        planned = plan(bit_overrides={key: 2})
        assert {name for name, entry in planned.items() if entry == (2, 2, "override")} == changed
        untouched = plan()
        assert all(planned[name] == untouched[name] for name in planned if name not in changed)

    def test_later_ones_win(self) -> None:
        planned = plan(bit_overrides={"{re}.*|WEIGHT": 4, "fc": 2})
        assert planned["weight fc/linear/0"] == (2, 2, "override")
        assert planned["weight stem/conv2d/0"] == (4, 4, "override")

    @pytest.mark.parametrize(
        "key", ["block/0/conv2d/9", "stem/relu/0|WEIGHT", "fc|OUTPUT", "{re}layer7", "/nncf_model_input_1"]
    )
    def test_that_match_nothing_are_errors_that_list_what_there_is(self, key: str) -> None:
        with pytest.raises(ConfigError, match=r"bit_overrides.*matches no quantizer; there are: .*0"):
            plan(bit_overrides={key: 2})

    def test_of_an_output_leave_a_quantizer_that_stands_before_its_reader(self) -> None:
        before = QuantizerSite(
            "pre_hooks.stem/conv2d/0__0.0", "activation", "stem/conv2d/0", ("stem/conv2d/0",), multiplied=True
        )
        sites = [*WEIGHTS, before]
        assert plan(sites, bit_overrides={"stem|INPUT": 2})["activation stem/conv2d/0"][1] == 2
        with pytest.raises(ConfigError, match="matches no quantizer"):
            plan(sites, bit_overrides={"stem|OUTPUT": 2})


class TestApply:
    def assignment(self, bits: int, kind: Literal["weight", "activation"] = "activation") -> BitAssignment:
        return BitAssignment("name", kind, "relu", bits, bits, "requested")

    @pytest.mark.parametrize("bits", range(2, 9))
    def test_gives_the_codes_of_that_many_bits(self, bits: int) -> None:
        signed, unsigned, shifted = symmetric(), symmetric(signed=False), asymmetric(-1.0, 2.0)
        for quantizer in (signed, unsigned, shifted):
            assert apply_bits(self.assignment(bits), quantizer) == self.assignment(bits)
        half = 2 ** (bits - 1)
        assert (signed.level_low, signed.level_high) == (-half, half - 1)
        assert (unsigned.level_low, unsigned.level_high) == (0, 2 * half - 1)
        assert (shifted.level_low, shifted.level_high) == (0, 2 * half - 1)

    @pytest.mark.parametrize("bits", range(2, 8))
    @pytest.mark.parametrize("half_range", [False, True])
    def test_weights_below_8_bits_use_every_code(self, bits: int, half_range: bool) -> None:
        weight = symmetric(narrow=True, half=half_range)
        apply_bits(self.assignment(bits, "weight"), weight)
        assert (weight.level_low, weight.level_high) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        again = SymmetricQuantizer.from_config(weight.get_config())
        again.load_state_dict(weight.state_dict())
        assert (again.level_low, again.level_high) == (weight.level_low, weight.level_high)

    def test_weights_at_8_bits_keep_the_codes_that_nncf_gave_them(self) -> None:
        for half_range, most in ((False, 127), (True, 63)):
            weight = symmetric(narrow=True, half=half_range)
            apply_bits(self.assignment(8, "weight"), weight)
            assert (weight.level_low, weight.level_high) == (-most, most)

    def test_refuses_a_quantizer_that_keeps_its_bits(self) -> None:
        class Stubborn:
            @property
            def num_bits(self) -> int:
                return 8

            @num_bits.setter
            def num_bits(self, _: int) -> None:
                pass

        with pytest.raises(ConfigError, match="relu: asked for 4 bits, the quantizer has 8"):
            apply_bits(self.assignment(4), Stubborn())


class TestFile:
    def saved(self, folder: Path, **settings: Any) -> str:
        full = QuantizeSettings.model_validate({"weight_bits": 3, "activation_bits": 5, **settings})
        write_plan(plan_bits(SITES, LAYERS, full, MODULE_TYPES), folder / "bit_plan.json")
        return str(folder / "bit_plan.json")

    def test_a_later_run_gives_every_quantizer_the_same_bits(self, tmp_path: Path) -> None:
        path = self.saved(tmp_path, first_last_bits=6, residual_bits=7, bit_overrides={"images": 4})
        again = plan(bit_plan=path, weight_bits=8, activation_bits=8)
        expected = plan(first_last_bits=6, residual_bits=7, bit_overrides={"images": 4})
        assert {place: entry[1] for place, entry in again.items()} == {
            place: entry[1] for place, entry in expected.items()
        }

    def test_a_quantizer_before_its_reader_does_not_speak_for_others_there(self, tmp_path: Path) -> None:
        before = replace(RELU, name="pre_hooks.stem/conv2d/0__0.0", layer="stem/conv2d/0", readers=("stem/conv2d/0",))
        sites = [*WEIGHTS, before]
        settings = QuantizeSettings(weight_bits=3, activation_bits=5, first_last_bits=None)
        write_plan(plan_bits(sites, LAYERS, settings, MODULE_TYPES), tmp_path / "bit_plan.json")
        again = plan(sites, bit_plan=str(tmp_path / "bit_plan.json"), weight_bits=8, activation_bits=8)
        assert again["weight stem/conv2d/0"][1] == 3
        assert again["activation stem/conv2d/0"][1] == 5

    def test_overrides_win(self, tmp_path: Path) -> None:
        again = plan(bit_plan=self.saved(tmp_path), bit_overrides={"fc|WEIGHT": 2})
        assert again["weight fc/linear/0"][1] == 2
        assert again["weight block/0/conv2d/0"][1] == 3

    def test_it_is_a_part_of_a_config(self, tmp_path: Path) -> None:
        part = json.loads(Path(self.saved(tmp_path)).read_text())
        job = load_config({"model": {"source": "python:a:b"}, "input_shape": [3, 8, 8], **part})
        assert job.quantize.bit_overrides["block/0/conv2d/0|WEIGHT"] == 3

    @pytest.mark.parametrize("content", ["{}", '{"quantize": 3}', '{"quantize": {"bit_overrides": {"fc": 40}}}'])
    def test_another_file_is_refused_by_name(self, content: str, tmp_path: Path) -> None:
        path = tmp_path / "other.json"
        path.write_text(content)
        with pytest.raises(InputError, match=r"other\.json is no bit plan"):
            plan(bit_plan=str(path))
        with pytest.raises(InputError, match=r"There is no file .*none\.json"):
            plan(bit_plan=str(tmp_path / "none.json"))


class TestSummary:
    def test_counts_by_bits_and_reason(self) -> None:
        entries = plan_bits(SITES, LAYERS, QuantizeSettings(weight_bits=4, activation_bits=4), MODULE_TYPES)
        assert summarise(entries) == (
            "weight quantizers: 1 x 4 bit (requested), 1 x 8 bit (first layer), 1 x 8 bit (last layer)\n"
            "activation quantizers: 1 x 4 bit (requested), 1 x 8 bit (last layer), 1 x 8 bit (network input), "
            "1 x 8 bit (no product reads it)"
        )

    def test_leaves_out_a_kind_that_there_is_not(self) -> None:
        assert summarise([BitAssignment("n", "weight", "fc", 4, 4, "requested")]) == (
            "weight quantizers: 1 x 4 bit (requested)"
        )


@pytest.mark.parametrize(
    "scope",
    ["block/norm/batch_norm/0|OUTPUT", "Net/Block[block]/NNCFBatchNorm2d[norm]/batch_norm_0|OUTPUT", "block/norm"],
)
def test_override_of_a_folded_batchnorm_is_one_of_the_layer_it_went_into(scope: str) -> None:
    full = QuantizeSettings.model_validate({"bit_overrides": {scope: 2}})
    entries = plan_bits(SITES, LAYERS, full, MODULE_TYPES, {"block/norm": "block/0"})
    found = [(entry.layer, entry.kind) for entry in entries if entry.applied == 2]
    assert ("block/0/relu/0", "activation") in found
    with pytest.raises(ConfigError, match="matches no quantizer"):
        plan_bits(SITES, LAYERS, full, MODULE_TYPES)
