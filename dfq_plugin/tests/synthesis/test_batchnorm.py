from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.errors import InputError, UnsupportedModelError
from dfq_plugin.synthesis.batchnorm import input_moments, tap_batchnorm
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher

SHAPE = (3, 8, 8)


def random_images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def hooks_of(network: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in network.modules())


class Backwards(nn.Module):
    """Runs its BatchNorm layers in the opposite order of their definition."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.BatchNorm2d(3)
        self.early = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.late(self.early(images) + 5.0).mean(dim=(2, 3)))
        return logits


class Twice(nn.Module):
    """Runs its one BatchNorm layer two times."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.norm(images) + 5.0).mean(dim=(2, 3)))
        return logits


class TestInputMoments:
    def test_batch_and_space_are_pooled_and_variance_is_biased(self) -> None:
        inputs = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])  # (2, 1, 1, 2)
        mean, variance = input_moments(inputs)
        assert mean.tolist() == [4.0]
        assert variance.tolist() == [5.0]  # (9 + 1 + 1 + 9) / 4; the unbiased one is 6.67

    def test_each_image_stands_alone_when_per_image(self) -> None:
        inputs = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 9.0]]]])
        mean, variance = input_moments(inputs, per_image=True)
        assert mean.tolist() == [[2.0], [7.0]]
        assert variance.tolist() == [[1.0], [4.0]]

    @pytest.mark.parametrize("per_image", [False, True])
    @pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (3, 2, 2, 3)])
    def test_gradient_is_the_derivative(self, shape: tuple[int, ...], per_image: bool) -> None:
        inputs = random_images(*shape, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: input_moments(x, per_image=per_image), [inputs])

    @pytest.mark.parametrize("per_image", [False, True])
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("offset", [0.0, 1000.0])
    def test_values_and_gradient_equal_var_mean(
        self, layout: torch.memory_format, offset: float, per_image: bool
    ) -> None:
        inputs = (random_images(4, 5, 6, 7) + offset).contiguous(memory_format=layout).requires_grad_()
        exact = inputs.detach().double().requires_grad_()
        dims = (2, 3) if per_image else (0, 2, 3)
        variance, mean = torch.var_mean(exact, dim=dims, correction=0)
        found_mean, found_variance = input_moments(inputs, per_image=per_image)
        torch.testing.assert_close(found_mean.double(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found_variance.double(), variance, rtol=1e-4, atol=1e-4)
        (found_mean.square().sum() + found_variance.square().sum()).backward()
        (mean.square().sum() + variance.square().sum()).backward()
        assert inputs.grad is not None
        assert exact.grad is not None
        torch.testing.assert_close(inputs.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("per_image", [False, True])
    def test_other_types_take_the_general_way(self, per_image: bool) -> None:
        inputs = random_images(3, 2, 4, 4).bfloat16()
        mean, variance = input_moments(inputs, per_image=per_image)
        expected = input_moments(inputs.float(), per_image=per_image)
        torch.testing.assert_close(mean.float(), expected[0], rtol=0.02, atol=0.02)
        torch.testing.assert_close(variance.float(), expected[1], rtol=0.02, atol=0.02)


class TestTapBatchnorm:
    def test_entries_describe_the_inputs_of_the_layers(self) -> None:
        teacher = tiny_teacher()
        facts = read_facts(teacher, SHAPE)
        inputs: list[Tensor] = []
        for name in facts.batchnorm_layers:
            teacher.get_submodule(name).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        with tap_batchnorm(teacher, facts) as seen:
            teacher(random_images(5, *SHAPE))
        assert [entry.name for entry in seen] == list(facts.batchnorm_layers)
        for entry, values in zip(seen, inputs, strict=True):
            layer = teacher.get_submodule(entry.name)
            assert isinstance(layer, nn.BatchNorm2d)
            assert entry.stored_mean is not None
            torch.testing.assert_close(entry.mean, values.mean(dim=(0, 2, 3)))
            torch.testing.assert_close(entry.variance, values.var(dim=(0, 2, 3), correction=0))
            torch.testing.assert_close(entry.stored_mean, layer.running_mean)
            torch.testing.assert_close(entry.stored_variance, layer.running_var)
            assert entry.eps == layer.eps
            assert entry.count == values.numel() // values.shape[1]

    def test_moments_are_per_image_when_asked(self) -> None:
        teacher = tiny_teacher()
        facts = read_facts(teacher, SHAPE)
        with tap_batchnorm(teacher, facts, per_image=True) as seen:
            teacher(random_images(5, *SHAPE))
        assert [tuple(entry.mean.shape) for entry in seen] == [(5, 8), (5, 16)]
        assert [entry.count for entry in seen] == [64, 16]

    def test_entries_follow_execution_not_definition(self) -> None:
        teacher = Backwards().eval()
        assert teacher.late.running_mean is not None
        teacher.late.running_mean.fill_(5.0)
        with tap_batchnorm(teacher, read_facts(teacher, SHAPE)) as seen:
            teacher(random_images(4, *SHAPE))
        assert [entry.name for entry in seen] == ["early", "late"]
        assert seen[1].stored_mean.tolist() == [5.0, 5.0, 5.0]
        torch.testing.assert_close(seen[1].mean, seen[0].mean + 5.0, rtol=1e-4, atol=1e-4)

    def test_each_call_is_an_entry_when_a_layer_runs_twice(self) -> None:
        teacher = Twice().eval()
        with tap_batchnorm(teacher, read_facts(teacher, SHAPE)) as seen:
            teacher(random_images(4, *SHAPE))
        assert [entry.name for entry in seen] == ["norm", "norm"]
        assert seen[1].mean.mean().item() == pytest.approx(5.0, abs=0.5)

    def test_each_forward_pass_starts_anew(self) -> None:
        teacher = tiny_teacher()
        with tap_batchnorm(teacher, read_facts(teacher, SHAPE)) as seen:
            teacher(random_images(4, *SHAPE, seed=1))
            first = seen[0].mean
            teacher(random_images(4, *SHAPE, seed=2))
            assert len(seen) == 2
            assert not torch.equal(seen[0].mean, first)

    def test_gradient_reaches_the_images(self) -> None:
        teacher = tiny_teacher()
        images = random_images(4, *SHAPE).requires_grad_()
        with tap_batchnorm(teacher, read_facts(teacher, SHAPE)) as seen:
            teacher(images)
            seen[-1].variance.sum().backward()
        assert images.grad is not None
        assert images.grad.abs().sum() > 0

    def test_hooks_are_gone_even_after_an_error(self) -> None:
        teacher = tiny_teacher()
        facts = read_facts(teacher, SHAPE)
        with pytest.raises(RuntimeError, match="channels"), tap_batchnorm(teacher, facts):
            teacher(random_images(4, 5, 8, 8))
        assert hooks_of(teacher) == 0
        with tap_batchnorm(teacher, facts):
            assert hooks_of(teacher) > 0
        assert hooks_of(teacher) == 0

    def test_error_names_the_layer_when_facts_are_of_another_network(self) -> None:
        teacher = tiny_teacher()
        facts = replace(read_facts(teacher, SHAPE), batchnorm_layers=("bn1", "conv1"))
        with pytest.raises(InputError, match="no BatchNorm layer 'conv1'"), tap_batchnorm(teacher, facts):
            pass
        assert hooks_of(teacher) == 0
        with (
            pytest.raises(InputError, match="no BatchNorm layer 'gone'"),
            tap_batchnorm(teacher, replace(facts, batchnorm_layers=("gone",))),
        ):
            pass

    def test_error_names_the_layer_when_it_keeps_no_statistics(self) -> None:
        teacher = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
        facts = replace(read_facts(tiny_teacher(), SHAPE), batchnorm_layers=("0",))
        with (
            pytest.raises(UnsupportedModelError, match="'0' keeps no running statistics"),
            tap_batchnorm(teacher, facts),
        ):
            pass
