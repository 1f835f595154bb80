"""Plain NNCF calibrates on any synthetic set, whatever made it and whatever the model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nncf
import numpy as np
import onnx
import openvino
import pytest
import torch
from PIL import Image
from torch import nn

from dfq_plugin.providers.base import GenerationRequest, Provider
from dfq_plugin.providers.folder import Folder
from dfq_plugin.providers.noise import Noise
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import digest_of, read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.validation.runtime import open_session

# NNCF loads its compiled functions in a thread pool that it never closes.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
NUM_SAMPLES = 10  # no multiple of the batch size: the last batch holds two images


def make_noise(_folder: Path) -> Provider:
    return Noise()


def make_folder(folder: Path) -> Provider:
    for index in range(NUM_SAMPLES):
        Image.effect_noise((12, 10), sigma=20 + 10 * index).convert("RGB").save(folder / f"{index}.png")
    return Folder(path=folder)


def generate(provider: Provider) -> SyntheticSet:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return provider(teacher, facts, GenerationRequest(NUM_SAMPLES, seed=0))


def activation_ranges(quantized: nn.Module) -> torch.Tensor:
    """Give the learned values of every activation quantizer, in the order in which they stand."""
    values = [value for name, value in quantized.named_parameters() if name.startswith("__nncf_hooks.post_hooks.")]
    assert len(values) >= 3
    return torch.cat([value.flatten().to(torch.float32) for value in values])


@pytest.mark.parametrize("make", [make_noise, make_folder], ids=["noise", "folder"])
def test_quantize_works_on_a_set_and_keeps_the_teacher(make: Callable[[Path], Provider], tmp_path: Path) -> None:
    synthetic = generate(make(tmp_path))
    teacher = tiny_teacher()
    quantized = nncf.quantize(teacher, synthetic.to_nncf(batch_size=4))
    kinds = [type(module).__name__ for module in quantized.modules()]
    assert sum("Quantizer" in kind for kind in kinds) >= 6  # the input, two activations and three weights
    assert digest_of(teacher) == digest_of(tiny_teacher())
    with torch.no_grad():
        expected = teacher(synthetic.images)
        error = (quantized(synthetic.images) - expected).norm() / expected.norm()
    assert 0 < error < 0.3


def test_every_image_counts_alike_for_the_ranges_when_the_last_batch_is_short() -> None:
    synthetic = generate(Noise())
    one, four, all_at_once = (
        activation_ranges(nncf.quantize(tiny_teacher(), synthetic.to_nncf(batch_size=size))) for size in (1, 4, 32)
    )
    assert torch.allclose(four, one, rtol=1e-5)
    assert torch.allclose(all_at_once, one, rtol=1e-5)


def test_dataset_says_its_length_and_batch_size_and_gives_chosen_batches() -> None:
    synthetic = generate(Noise())
    dataset = synthetic.to_nncf(batch_size=4)
    assert dataset.get_length() == 3
    assert dataset.get_batch_size() == 4
    (last,) = dataset.get_inference_data([2])
    assert torch.equal(last, synthetic.images[8:])
    assert torch.equal(torch.cat(list(dataset.get_inference_data())), synthetic.images)


def float_file(folder: Path) -> Path:
    """The tiny network as an ONNX file whose batch may have any size."""
    program = torch.onnx.export(
        tiny_teacher(),
        (torch.zeros(2, 3, 8, 8),),
        dynamo=True,
        input_names=["pixels"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    program.save(folder / "tiny.onnx")
    return folder / "tiny.onnx"


def relative_error(found: np.ndarray, images: torch.Tensor) -> float:
    """How far logits are from those of the float network."""
    with torch.no_grad():
        expected = tiny_teacher()(images)
    return float((torch.from_numpy(found) - expected).norm() / expected.norm())


def test_quantize_works_on_a_set_for_an_onnx_model(tmp_path: Path) -> None:
    synthetic = generate(Noise())
    dataset = synthetic.to_nncf(batch_size=4, backend="onnx", input_name="pixels")
    quantized = nncf.quantize(onnx.load(float_file(tmp_path)), dataset)
    assert sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node) >= 3
    session = open_session(quantized.SerializeToString())
    assert 0 < relative_error(session.run(None, {"pixels": synthetic.images.numpy()})[0], synthetic.images) < 0.3


def test_quantize_works_on_a_set_for_an_openvino_model(tmp_path: Path) -> None:
    synthetic = generate(Noise())
    dataset = synthetic.to_nncf(batch_size=4, backend="openvino", input_name="pixels")
    # OpenVINO cannot be asked for exact sums: without VNNI those of 8-bit weights overflow.
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    model = openvino.Core().read_model(float_file(tmp_path))
    quantized = nncf.quantize(model, dataset, advanced_parameters=advanced)
    assert sum(node.get_type_name() == "FakeQuantize" for node in quantized.get_ops()) >= 3
    compiled = openvino.Core().compile_model(quantized, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert 0 < relative_error(np.asarray(compiled(synthetic.images.numpy())[0]), synthetic.images) < 0.3
