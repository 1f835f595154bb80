"""Every weight has its place, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.checkpoints import find_class_count, put_weights, read_weights
from dfq_plugin.errors import InputError
from dfq_plugin.teacher import digest_of
from dfq_plugin.tensor_files import write_tensors
from dfq_plugin.testing import tiny_teacher


def _weights() -> dict[str, Tensor]:
    return dict(tiny_teacher().state_dict())


class TestReadWeights:
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
    def test_reads_every_kind_of_file(self, tmp_path: Path, suffix: str) -> None:
        file = tmp_path / f"weights{suffix}"
        if suffix == ".safetensors":
            write_tensors(file, _weights())
        else:
            torch.save(_weights(), file)
        found = read_weights(file)
        assert found.keys() == _weights().keys()
        assert torch.equal(found["fc.weight"], _weights()["fc.weight"])

    @pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
    def test_takes_wrapping_and_prefix_off(self, tmp_path: Path, key: str, prefix: str) -> None:
        torch.save({"epoch": 3, key: {prefix + name: t for name, t in _weights().items()}}, tmp_path / "w.pth")
        assert read_weights(tmp_path / "w.pth").keys() == _weights().keys()

    def test_leaves_a_prefix_that_not_every_name_has(self, tmp_path: Path) -> None:
        torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "w.pth")
        assert set(read_weights(tmp_path / "w.pth")) == {"module.a", "b"}

    def test_refuses_file_that_holds_a_whole_network(self, tmp_path: Path) -> None:
        torch.save(tiny_teacher(), tmp_path / "w.pth")
        with pytest.raises(InputError, match="whole networks or other Python objects are refused"):
            read_weights(tmp_path / "w.pth")

    @pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"model": {"a": 1}}], ids=str)
    def test_refuses_file_without_named_tensors(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(InputError, match="does not hold weights"):
            read_weights(tmp_path / "w.pt")

    def test_refuses_file_that_is_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "w.pt").write_bytes(b"hello")
        with pytest.raises(InputError, match=r"w\.pt cannot be read as weights"):
            read_weights(tmp_path / "w.pt")

    def test_names_the_file_when_it_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no weights file .*w\.pt"):
            read_weights(tmp_path / "w.pt")

    def test_names_the_suffixes_when_it_is_another(self) -> None:
        with pytest.raises(InputError, match=r"\.safetensors, \.pt, \.pth, got w\.h5"):
            read_weights(Path("w.h5"))


class TestPutWeights:
    def test_fills_the_network(self) -> None:
        network = tiny_teacher()
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
        put_weights(network, _weights(), "w.pt")
        assert digest_of(network) == digest_of(tiny_teacher())

    def test_does_without_the_count_of_batches(self) -> None:
        weights = {name: tensor for name, tensor in _weights().items() if "num_batches" not in name}
        put_weights(tiny_teacher(), weights, "w.pt")

    def test_names_everything_that_does_not_fit_and_changes_nothing(self) -> None:
        weights = _weights()
        weights["fc.wieght"] = weights.pop("fc.weight")
        weights["conv1.weight"] = torch.zeros(8, 3, 5, 5)
        weights["bn1.bias"] = torch.zeros(8)
        network = tiny_teacher()
        with pytest.raises(InputError, match=r"The weights in w\.pt do not fit TinyNetwork") as caught:
            put_weights(network, weights, "w.pt")
        told = str(caught.value)
        assert "1 missing: 'fc.weight' (nearest: 'fc.wieght')" in told
        assert "1 not in the network: 'fc.wieght' (nearest: 'fc.weight')" in told
        assert "1 of another shape: 'conv1.weight' is (8, 3, 5, 5), the network has (8, 3, 3, 3)" in told
        assert digest_of(network) == digest_of(tiny_teacher())

    def test_lists_the_first_three_only(self) -> None:
        with pytest.raises(InputError, match=r"12 missing: 'conv1\.weight'.*'bn1\.weight'.*'bn1\.bias'.* and 9 more"):
            put_weights(tiny_teacher(), {}, "w.pt")

    def test_refuses_values_that_are_not_finite(self) -> None:
        weights = {name: tensor.clone() for name, tensor in _weights().items()}
        weights["bn1.running_var"][2] = float("nan")
        with pytest.raises(InputError, match=r"not finite: bn1\.running_var"):
            put_weights(tiny_teacher(), weights, "w.pt")


class TestFindClassCount:
    def test_gives_the_count_when_only_the_classes_differ(self) -> None:
        assert find_class_count(tiny_teacher(num_classes=4), dict(tiny_teacher(num_classes=9).state_dict())) == 9

    def test_gives_none_when_nothing_differs(self) -> None:
        assert find_class_count(tiny_teacher(), _weights()) is None

    def test_gives_none_when_something_else_differs_too(self) -> None:
        weights = {**tiny_teacher(num_classes=9).state_dict(), "conv1.weight": torch.zeros(8, 3, 5, 5)}
        assert find_class_count(tiny_teacher(), weights) is None

    def test_gives_none_when_the_features_differ_too(self) -> None:
        weights = {**_weights(), "fc.weight": torch.zeros(9, 15), "fc.bias": torch.zeros(9)}
        assert find_class_count(tiny_teacher(), weights) is None

    def test_gives_none_when_counts_disagree(self) -> None:
        weights = {**_weights(), "fc.weight": torch.zeros(9, 16), "fc.bias": torch.zeros(8)}
        assert find_class_count(tiny_teacher(), weights) is None
