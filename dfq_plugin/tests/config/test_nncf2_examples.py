"""Config files as the NNCF 2.x examples had them: each loads or is refused, and none of it is passed over silently."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfq_plugin.config import convert, load_config
from dfq_plugin.config.loading import _gather
from dfq_plugin.config.reading import read_document
from dfq_plugin.config.statements import Statements, to_pointer
from dfq_plugin.errors import ConfigError

FOLDER = Path(__file__).parent / "nncf2"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
MODEL = {"source": "torchvision:resnet18"}

# What stands in the way, for those files that cannot be followed: the place, and a word of the way out.
REFUSED = {
    "accuracy_aware_early_exit": {"/accuracy_aware_training": "finetune.epochs"},
    "accuracy_aware_pruning": {
        "/accuracy_aware_training": "finetune.epochs",
        "/compression/0/algorithm": "slim the network first",
    },
    "binarization_xnor": {"/compression/0/algorithm": "the lowest is 2 bits"},
    "classification_custom_patterns": {"/compression/quantize_patterns": "delete it"},
    "detection_retinanet_channels_last": {"/input_info/sample_size": "[1, 3, 640, 640]"},
    "keys_out_of_place": {
        "/compression/range": "Move it to /compression/initializer/range",
        "/weights": "Move it to /compression/weights",
        "/activations": "Move it to /compression/activations",
        "/precision": "Move it to /compression/initializer/precision",
    },
    "movement_sparsity": {
        "/input_info": "only networks with one image input",
        "/compression/0/algorithm": "nncf.prune",
        "/compression/1/scope_overrides/activations/{re}.*matmul_0/mode": "set it for all activations",
    },
    "per_layer_ranges_by_scope": {
        "/compression/initializer/range/0/target_scopes": "delete the scopes",
        "/compression/initializer/range/1/ignored_scopes": "delete the scopes",
    },
    "progressive_shrinking": {"/bootstrapNAS": "search with another tool"},
    "segmentation_icnet_sparse": {"/compression/0/algorithm": "nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL"},
    "sparsity_constant": {"/compression/0/algorithm": "nncf.prune"},
    "sparsity_quantization_distillation": {"/compression/0/algorithm": "nncf.prune"},
    "sparsity_regularization": {"/compression/0/algorithm": "nncf.PruneMode.UNSTRUCTURED_REGULARIZATION_BASED"},
}


def content(name: str) -> dict[str, Any]:
    return read_document(FOLDER / f"{name}.json")[0]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[str]:
    """JSON pointers of everything that says something; an empty list or object says nothing."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    elif isinstance(value, list) and not all(isinstance(part, (int, float)) for part in value):
        for index, part in enumerate(value):
            yield from leaves(part, (*path, index))
    elif value != []:
        yield to_pointer(path)


def passed_over(raw: dict[str, Any], statements: Statements) -> list[str]:
    """What of a file became neither a setting, nor a note, nor a problem."""
    told = set(statements.origins().values())
    for note in statements.notes:
        if note.pointer == "/":  # one note for all keys of the sample scripts
            told |= {f"/{key}" for key in raw if key in note.message.split(" belonged")[0].split(", ")}
        elif note.level != "default":
            told.add(note.pointer)
    for problem in statements.problems:
        pointer, _, key = problem.split(": ")[0].rpartition("/")
        whole = key == "algorithm" or pointer.rpartition("/")[2].isdigit()  # the algorithm, or the entry of a list
        told.add(pointer if whole else f"{pointer}/{key}")
    prefixes = tuple(f"{pointer}/" for pointer in told)
    return [leaf for leaf in leaves(raw) if leaf not in told and not leaf.startswith(prefixes)]


def test_there_are_as_many_examples_as_promised() -> None:
    assert len(NAMES) == 29
    assert REFUSED.keys() < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_passed_over_in_silence(name: str) -> None:
    raw = content(name)
    statements, _ = _gather(raw, ())
    left = [leaf for leaf in passed_over(raw, statements) if leaf not in REFUSED.get(name, {})]
    unknown = tuple(f"{pointer}/" for pointer in REFUSED.get(name, {}))  # found when the whole is checked
    assert [leaf for leaf in left if not leaf.startswith(unknown)] == []


def test_a_key_that_is_passed_over_is_found_by_the_test_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Statements, "note", lambda *_: None)
    raw = content("classification_int8")
    found = passed_over(raw, _gather(raw, ())[0])
    assert "/compression/initializer/batchnorm_adaptation/num_bn_adaptation_samples" in found
    assert "/num_classes" in found


@pytest.mark.parametrize("name", sorted(set(NAMES) - REFUSED.keys()))
def test_example_loads_and_its_conversion_means_the_same(name: str) -> None:
    config = load_config(FOLDER / f"{name}.json")
    converted = convert(FOLDER / f"{name}.json")
    assert not {"compression", "input_info", "pretrained"} & converted.keys()
    again = load_config(json.loads(json.dumps(converted)))
    assert again == config
    assert all("only 256 are made" in note.message for note in again.notes)


@pytest.mark.parametrize("name", REFUSED)
def test_example_is_refused_with_every_place_and_the_way_out(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"model": MODEL, **content(name)})
    lines = str(caught.value).removeprefix("config: ").splitlines()
    problems = dict(line.strip().split(": ", 1) for line in lines if line.strip().startswith("/"))
    assert problems.keys() == REFUSED[name].keys()
    for pointer, way_out in REFUSED[name].items():
        assert way_out in problems[pointer]


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("classification_int8", "num_init_samples", 2560),
        ("classification_asymmetric", "preset", "mixed"),
        ("mixed_precision_manual_staged", "weight_bits", 4),
        ("per_layer_ranges", "percentiles", (0.01, 99.99)),
        ("detection_ssd_vgg", "quantize_inputs", False),
        ("distillation_mse", "quantize_outputs", True),
        (
            "per_layer_overrides",
            "bit_overrides",
            {"layer4/1/conv2/conv2d/0|WEIGHT": 4, "{re}layer3.*conv1|WEIGHT": 6, "fc/linear/0|INPUT": 8},
        ),
    ],
)
def test_example_means_what_it_says(name: str, setting: str, value: Any) -> None:
    assert getattr(load_config(FOLDER / f"{name}.json").quantize, setting) == value


@pytest.mark.parametrize(
    ("name", "average", "widths"),
    [("mixed_precision_hawq", 8 / 1.4, (4, 8)), ("mixed_precision_autoq_staged", 32 * 0.16, (2, 4, 8))],
)
def test_search_for_bits_becomes_a_budget(name: str, average: float, widths: tuple[int, ...]) -> None:
    allocation = load_config(FOLDER / f"{name}.json").quantize.allocation
    assert (allocation.average_weight_bits, allocation.widths) == (average, widths)


def test_checkpoint_of_the_sample_scripts_becomes_the_weights() -> None:
    model = load_config(FOLDER / "classification_asymmetric.json").model
    assert (model.source, model.weights) == ("torchvision:mobilenet_v2", "checkpoints/mobilenet_v2_cifar100.pth")


def test_network_of_the_samples_is_said_to_be_one() -> None:
    notes = load_config(FOLDER / "segmentation_unet_int4.json").notes
    assert any("'unet' was a network of NNCF's samples" in note.message for note in notes)
