"""Networks come from where the config says, with the weights and the normalisation that belong to them."""

from __future__ import annotations

import logging
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from dfq_plugin.config.schema import ModelSettings
from dfq_plugin.errors import InputError
from dfq_plugin.model_sources import load_network
from dfq_plugin.teacher import PIXELS_NOT_KNOWN, digest_of, load_teacher
from dfq_plugin.tensor_files import write_tensors
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import _global_random_state

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN_MODULE = """
from dfq_plugin.testing import tiny_teacher

class Zoo:
    small = staticmethod(tiny_teacher)

network = tiny_teacher(num_classes=5)
number = 3

def make():
    import own_helper
    return tiny_teacher(num_classes=own_helper.CLASSES)
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_network.py").write_text(OWN_MODULE)
    (tmp_path / "own_helper.py").write_text("CLASSES = 6")
    monkeypatch.chdir(tmp_path)
    for name in ("own_network", "own_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "own_network"


class TestPython:
    @pytest.mark.parametrize(
        ("attribute", "classes"),
        [
            pytest.param("make", 6, id="function_that_imports_its_neighbour"),
            pytest.param("network", 5, id="network"),
            pytest.param("Zoo.small", 4, id="dotted"),
        ],
    )
    def test_gives_the_network_of_a_module_in_the_current_folder(
        self, own_module: str, attribute: str, classes: int
    ) -> None:
        path_before = list(sys.path)
        teacher = load_teacher(ModelSettings(source=f"python:{own_module}:{attribute}"), (3, 8, 8))
        assert teacher.facts.num_classes == classes
        assert not teacher.network.training
        assert sys.path == path_before

    def test_fills_in_weights_from_a_file(self, own_module: str, tmp_path: Path) -> None:
        changed = tiny_teacher()
        changed.get_submodule("fc").get_parameter("bias").data.add_(1.0)
        write_tensors(tmp_path / "w.safetensors", changed.state_dict())
        settings = ModelSettings(source=f"python:{own_module}:Zoo.small", weights=str(tmp_path / "w.safetensors"))
        assert digest_of(load_network(settings).network) == digest_of(changed)

    def test_takes_mean_and_std_from_the_settings(self, own_module: str) -> None:
        settings = ModelSettings(source=f"python:{own_module}:make", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
        facts = load_teacher(settings, (3, 8, 8)).facts
        assert (facts.mean, facts.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))

    def test_knows_no_mean_and_std_without_them(self, own_module: str) -> None:
        assert load_network(ModelSettings(source=f"python:{own_module}:make"))[1:] == (None, None)

    @pytest.mark.parametrize(
        ("source", "told"),
        [
            pytest.param("python:own_network:mak", "Did you mean 'make'", id="attribute"),
            pytest.param("python:own_network:number", "gives a int, expected a torch.nn.Module", id="no_network"),
            pytest.param("python:nowhere_to_be_found:make", "ModuleNotFoundError", id="module"),
        ],
    )
    def test_says_what_is_wrong_with_the_source(self, own_module: str, source: str, told: str) -> None:
        assert own_module
        with pytest.raises(InputError, match=told):
            load_network(ModelSettings(source=source))

    def test_refuses_a_tag(self, own_module: str) -> None:
        with pytest.raises(InputError, match=r"is a file named .*got 'IMAGENET1K_V1'"):
            load_network(ModelSettings(source=f"python:{own_module}:make", weights="IMAGENET1K_V1"))


class TestTorchvision:
    SOURCE = "torchvision:shufflenet_v2_x0_5"

    def test_fits_the_network_to_the_classes_of_the_file(self, tmp_path: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            trained = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
        torch.save({"state_dict": trained.state_dict()}, tmp_path / "w.pth")
        teacher = load_teacher(ModelSettings(source=self.SOURCE, weights=str(tmp_path / "w.pth")), (3, 32, 32))
        assert teacher.facts.num_classes == 10
        assert not teacher.network.training
        assert digest_of(teacher.network) == digest_of(trained)
        assert (teacher.facts.mean, teacher.facts.std) == (IMAGENET_MEAN, IMAGENET_STD)

    def test_warns_and_is_the_same_every_time_when_there_are_no_weights(self, caplog: pytest.LogCaptureFixture) -> None:
        state = torch.get_rng_state()
        with caplog.at_level(logging.WARNING, logger="nncf.dfq_plugin.teacher"):
            first = load_network(ModelSettings(source=self.SOURCE)).network
        assert "no trained weights" in caplog.text
        assert torch.equal(torch.get_rng_state(), state)
        with _global_random_state(1):
            assert digest_of(load_network(ModelSettings(source=self.SOURCE)).network) == digest_of(first)

    @pytest.mark.parametrize("tag", ["IMAGENET1K_V1", "DEFAULT", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"])
    def test_asks_for_the_weights_of_a_tag(self, monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
        asked: list[Any] = []

        def get_model(_name: str, weights: Any) -> nn.Module:
            asked.append(weights)
            return tiny_teacher()

        monkeypatch.setattr(torchvision.models, "get_model", get_model)
        loaded = load_network(ModelSettings(source=self.SOURCE, weights=tag))
        assert asked == [torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1]
        assert loaded.mean == IMAGENET_MEAN

    def test_says_what_to_do_when_weights_cannot_be_fetched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def get_model(_name: str, weights: Any) -> nn.Module:
            msg = f"no route to {weights}"
            raise urllib.error.URLError(msg)

        monkeypatch.setattr(torchvision.models, "get_model", get_model)
        with pytest.raises(InputError, match=r"cannot be fetched: .*no route.*set model\.weights to the file"):
            load_network(ModelSettings(source=self.SOURCE, weights="DEFAULT"))

    @pytest.mark.parametrize(
        ("source", "weights", "told"),
        [
            pytest.param("torchvision:resnet81", None, "Did you mean 'resnet18'", id="name"),
            pytest.param(SOURCE, "IMAGENET1K", "Did you mean 'IMAGENET1K_V1'", id="tag"),
            pytest.param(SOURCE, "missing.pth", r"no weights file missing\.pth", id="file"),
            pytest.param(SOURCE, "folder/w.bin", r"Weights are read from files named \.safetensors", id="suffix"),
        ],
    )
    def test_says_what_is_wrong(self, source: str, weights: str | None, told: str) -> None:
        with pytest.raises(InputError, match=told):
            load_network(ModelSettings(source=source, weights=weights))

    def test_names_the_extra_when_torchvision_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchvision.models", None)
        with pytest.raises(InputError, match=r"needs torchvision; install it with: pip install 'dfq-plugin\[vision\]'"):
            load_network(ModelSettings(source=self.SOURCE))


class TestTimm:
    SOURCE = "timm:test_resnet"

    def test_gives_network_and_normalisation_of_timm(self, tmp_path: Path) -> None:
        trained = timm.create_model("test_resnet", num_classes=3)
        write_tensors(tmp_path / "w.safetensors", trained.state_dict())
        settings = ModelSettings(source=self.SOURCE, weights=str(tmp_path / "w.safetensors"))
        teacher = load_teacher(settings, (3, 32, 32))
        assert digest_of(teacher.network) == digest_of(trained)
        assert (teacher.facts.mean, teacher.facts.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def test_asks_for_the_weights_of_a_tag(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[str, bool]] = []

        def create_model(name: str, *, pretrained: bool) -> nn.Module:
            asked.append((name, pretrained))
            return tiny_teacher()

        monkeypatch.setattr(timm, "create_model", create_model)
        load_network(ModelSettings(source=self.SOURCE, weights="r160_in1k"))
        assert asked == [("test_resnet.r160_in1k", True)]

    @pytest.mark.parametrize(
        ("source", "weights", "told"),
        [
            pytest.param("timm:test_resnt", None, "Did you mean 'test_resnet'", id="name"),
            pytest.param(SOURCE, "r160", "Did you mean 'r160_in1k'", id="tag"),
        ],
    )
    def test_says_what_is_wrong(self, source: str, weights: str | None, told: str) -> None:
        with pytest.raises(InputError, match=told):
            load_network(ModelSettings(source=source, weights=weights))


def test_load_teacher_drops_published_normalisation_of_other_channels(own_module: str, tmp_path: Path) -> None:
    with (tmp_path / f"{own_module}.py").open("a") as file:
        file.write("\ngrey = tiny_teacher(channels=1)\ngrey.pretrained_cfg = {'mean': (0.5,) * 3, 'std': (0.5,) * 3}\n")
    facts = load_teacher(ModelSettings(source=f"python:{own_module}:grey"), (1, 8, 8)).facts
    assert facts.mean is None
    assert facts.std is None


@pytest.mark.parametrize(("given", "warned"), [({}, True), ({"mean": (0.5,) * 3, "std": (0.25,) * 3}, False)])
def test_load_teacher_warns_when_the_range_of_pixels_is_not_known(
    own_module: str, caplog: pytest.LogCaptureFixture, given: dict[str, tuple[float, ...]], warned: bool
) -> None:
    load_teacher(ModelSettings(source=f"python:{own_module}:network", **given), (3, 8, 8))
    assert (PIXELS_NOT_KNOWN in caplog.text) == warned
