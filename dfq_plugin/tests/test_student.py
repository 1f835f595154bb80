"""The student as a module, the grids of its quantizers, and its biases on the accumulator's grid."""

from __future__ import annotations

import copy

import pytest
import torch
from nncf.torch.function_hook import get_hook_storage
from torch import Tensor, nn

from dfq_plugin.errors import ExportError
from dfq_plugin.quantization.nncf_graph import Body
from dfq_plugin.student import MAX_BIAS_CODE, Grid, ProductLayer, QuantizerSite, Student
from dfq_plugin.tests.quantization.networks import asymmetric, put, symmetric, traced

INPUT = QuantizerSite(
    "post_hooks.images__0.0", "activation", "images", ("fc/linear/0",), multiplied=True, is_input=True
)
WEIGHT = QuantizerSite("pre_hooks.network/fc/linear/0__1.0", "weight", "fc/linear/0", ("fc/linear/0",), multiplied=True)
LAYER = ProductLayer("fc/linear/0", "network.fc.weight", "network.fc.bias", WEIGHT.name, INPUT.name)
BIASES = torch.tensor([0.3, -0.7, 0.0])


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.fc(pixels.flatten(1))
        return logits


def make_student(
    weight_scale: Tensor | float = 1.27,
    image: nn.Module | None = None,
    biases: Tensor = BIASES,
    layers: tuple[ProductLayer, ...] = (LAYER,),
) -> Student:
    """One linear layer: weight step ``weight_scale`` / 127 and, by default, input step 0.02."""
    body, _ = traced(Classifier())
    scale = torch.as_tensor(weight_scale).expand(3).reshape(3, 1)
    put(body, "pre", "network/fc/linear/0", 1, symmetric(scale, narrow=True))
    put(body, "post", "images", 0, image or symmetric(2.54))
    body.get_parameter("network.fc.bias").data.copy_(biases)
    return Student(body.requires_grad_(requires_grad=False), (3, 8, 8), (INPUT, WEIGHT), layers, ())


def bias_of(student: Student) -> Tensor:
    return student.network.get_parameter("network.fc.bias")


class TestModule:
    def test_names_its_quantizers(self) -> None:
        student = make_student()
        assert [site for site, _ in student.quantizers()] == [INPUT, WEIGHT]
        assert student.quantizer(WEIGHT.name) is {site.name: q for site, q in student.quantizers()}[WEIGHT.name]
        assert student.site(INPUT.name) is INPUT

    def test_is_in_eval_mode(self) -> None:
        assert not make_student().training

    def test_runs_its_network(self) -> None:
        student = Student(nn.Flatten(), (1, 2, 2), (), (), ())
        images = torch.arange(8.0).reshape(2, 1, 2, 2)
        assert torch.equal(student(images), images.flatten(1))

    def test_a_deep_copy_shares_nothing(self) -> None:
        student = make_student()
        twin = copy.deepcopy(student)
        assert (twin.sites, twin.layers, twin.input_shape) == (student.sites, student.layers, student.input_shape)
        twin.quantizer(INPUT.name).scale.data.fill_(9.0)
        bias_of(twin).fill_(9.0)
        assert student.grid(INPUT).step.item() == pytest.approx(0.02)
        assert torch.equal(bias_of(student), BIASES)

    def test_moves_and_loads_as_any_module(self) -> None:
        student, other = make_student(), make_student(weight_scale=5.0, biases=torch.zeros(3))
        other.load_state_dict(student.state_dict())
        assert torch.equal(other.grid(WEIGHT).step, student.grid(WEIGHT).step)
        assert torch.equal(bias_of(other), BIASES)

    def test_replaces_a_quantizer(self) -> None:
        student, stand_in = make_student(), nn.Identity()
        student.replace_quantizer(INPUT.name, stand_in)
        assert student.quantizer(INPUT.name) is stand_in

    def test_replaces_a_quantizer_in_all_its_places(self) -> None:
        student, stand_in = make_student(), nn.Identity()
        assert isinstance(student.network, Body)
        put(student.network, "pre", "network/fc/linear/0", 0, student.quantizer(INPUT.name))
        student.replace_quantizer(INPUT.name, stand_in)
        hooks = dict(get_hook_storage(student.network).named_hooks(remove_duplicate=False))
        assert hooks["pre_hooks.network/fc/linear/0__0.0"] is stand_in
        assert hooks["post_hooks.images__0.0"] is stand_in
        assert hooks[WEIGHT.name] is not stand_in


def grid_of(quantizer: nn.Module, kind: QuantizerSite = INPUT) -> Grid:
    student = make_student()
    student.replace_quantizer(kind.name, quantizer)
    return student.grid(kind)


class TestGrid:
    def test_of_a_signed_activation_has_its_zero_in_the_middle(self) -> None:
        grid = grid_of(symmetric(2.54))
        assert grid.step.item() == pytest.approx(0.02)
        assert (grid.zero_point.item(), grid.low, grid.high, grid.axis) == (128, 0, 255, None)
        assert grid.step.shape == grid.zero_point.shape == ()

    def test_of_an_unsigned_activation_starts_at_zero(self) -> None:
        grid = grid_of(symmetric(3.0, bits=4, signed=False))
        assert grid.step.item() == pytest.approx(0.2)
        assert (grid.zero_point.item(), grid.low, grid.high) == (0, 0, 15)

    def test_of_an_asymmetric_activation_has_a_code_for_zero(self) -> None:
        grid = grid_of(asymmetric(-0.5, 1.0, bits=4))
        assert grid.step.item() == pytest.approx(0.1)
        assert (grid.zero_point.item(), grid.low, grid.high) == (5, 0, 15)

    def test_of_a_weight_is_signed_and_has_one_step_per_channel(self) -> None:
        scale = torch.tensor([0.7, 1.4, 2.1]).reshape(3, 1, 1, 1)
        grid = grid_of(symmetric(scale, bits=4, narrow=True), WEIGHT)
        assert grid.step.tolist() == pytest.approx([0.1, 0.2, 0.3])
        assert grid.zero_point.tolist() == [0, 0, 0]
        assert (grid.low, grid.high, grid.axis) == (-7, 7, 0)

    def test_of_a_transposed_weight_has_its_channels_on_the_second_axis(self) -> None:
        assert grid_of(symmetric(torch.ones(1, 5, 1, 1), narrow=True), WEIGHT).axis == 1

    def test_of_a_weight_with_one_channel_has_no_axis(self) -> None:
        grid = grid_of(symmetric(torch.full((1, 1, 1, 1), 1.27), narrow=True), WEIGHT)
        assert grid.axis is None
        assert grid.step.shape == ()
        assert grid.step.item() == pytest.approx(0.01)

    def test_of_a_half_range_weight_uses_half_of_the_codes(self) -> None:
        grid = grid_of(symmetric(torch.tensor([[0.63], [1.26], [0.63]]), narrow=True, half=True), WEIGHT)
        assert grid.step.tolist() == pytest.approx([0.01, 0.02, 0.01])
        assert (grid.low, grid.high) == (-63, 63)

    def test_does_not_mind_the_sign_of_a_trained_scale(self) -> None:
        assert grid_of(symmetric(-2.54)).step.item() == pytest.approx(0.02)

    @pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
    def test_without_a_usable_step_is_an_error_that_names_the_layer(self, scale: float) -> None:
        with pytest.raises(ExportError, match="activation quantizer at images has step"):
            grid_of(symmetric(scale))

    def test_is_an_error_when_one_channel_has_no_usable_step(self) -> None:
        with pytest.raises(ExportError, match="weight quantizer at fc/linear/0 has step nan"):
            grid_of(symmetric(torch.tensor([[1.0], [float("nan")], [1.0]]), narrow=True), WEIGHT)


class TestBiases:
    def test_are_whole_multiples_of_input_step_times_weight_step(self) -> None:
        student = make_student(weight_scale=torch.tensor([1.27, 2.54, 1.27]))
        student.snap_biases()
        steps = torch.tensor([0.0002, 0.0004, 0.0002], dtype=torch.float64)
        codes = bias_of(student).double() / steps
        assert torch.allclose(codes, codes.round(), atol=1e-3)
        assert codes.round().tolist() == [1500.0, -1750.0, 0.0]

    def test_move_by_at_most_half_a_step(self) -> None:
        student = make_student(weight_scale=127.0, image=symmetric(12.7), biases=torch.tensor([0.26, -0.04, 0.16]))
        student.snap_biases()  # input step 0.1, weight step 1
        assert bias_of(student).tolist() == pytest.approx([0.3, 0.0, 0.2])

    def test_are_left_as_they_are_the_second_time(self) -> None:
        student = make_student(weight_scale=torch.tensor([0.011, 3.7, 1e-5]))
        student.snap_biases()
        once = bias_of(student).clone()
        student.snap_biases()
        assert torch.equal(bias_of(student), once)

    def test_raise_the_steps_of_weights_too_small_for_them(self) -> None:
        student = make_student(weight_scale=torch.tensor([1.27, 1e-9, 1e-9]))
        student.snap_biases()
        step = student.grid(WEIGHT).step
        assert step[0].item() == pytest.approx(0.01)  # a live channel keeps its step
        assert (0.7 / (0.02 * step[1])).item() == pytest.approx(MAX_BIAS_CODE, rel=1e-5)
        assert step[2].item() == pytest.approx(1e-9 / 127)  # no bias, no need
        assert bias_of(student)[1].item() == pytest.approx(-0.7, rel=1e-6)

    def test_stay_when_an_operand_is_in_float(self) -> None:
        layers = (ProductLayer("fc/linear/0", LAYER.weight, LAYER.bias, WEIGHT.name, None),)
        student = make_student(layers=layers)
        student.snap_biases()
        assert torch.equal(bias_of(student), BIASES)

    def test_stay_when_two_products_add_the_same_one(self) -> None:
        student = make_student(weight_scale=100.0, layers=(LAYER, LAYER))
        student.snap_biases()
        assert torch.equal(bias_of(student), BIASES)

    def test_of_transposed_groups_use_the_steps_of_the_group_in_turn(self) -> None:
        class Transposed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.up = nn.ConvTranspose2d(4, 4, 1, groups=2)

            def forward(self, pixels: Tensor) -> Tensor:
                return self.up(torch.cat([pixels, pixels[:, :1]], dim=1))  # type: ignore[no-any-return]

        body, _ = traced(Transposed())
        body.get_parameter("network.up.bias").data.copy_(torch.tensor([0.26, 0.26, 0.74, 0.74]))
        put(
            body,
            "pre",
            "network/up/conv_transpose2d/0",
            1,
            symmetric(torch.tensor([[[[127.0]], [[254.0]]]]), narrow=True),
        )
        put(body, "post", "images", 0, symmetric(12.7))
        site = QuantizerSite("pre_hooks.network/up/conv_transpose2d/0__1.0", "weight", "up", ("up",), multiplied=True)
        layer = ProductLayer("up", "network.up.weight", "network.up.bias", site.name, INPUT.name)
        student = Student(body.requires_grad_(requires_grad=False), (3, 8, 8), (INPUT, site), (layer,), ())
        student.snap_biases()  # steps 0.1 and 0.2
        assert body.get_parameter("network.up.bias").tolist() == pytest.approx([0.3, 0.2, 0.7, 0.8])
