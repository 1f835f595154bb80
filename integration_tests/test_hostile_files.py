"""Files from elsewhere: whatever is wrong with them, one message names them and no code in them runs."""

from __future__ import annotations

import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from dfq_plugin.checkpoints import read_weights
from dfq_plugin.cli import app
from dfq_plugin.config import load_config
from dfq_plugin.errors import ConfigError, DFQError, InputError
from dfq_plugin.image_files import decode_image
from dfq_plugin.machine import FINISHED, built_extension
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.tensor_files import read_tensors
from dfq_plugin.validation.census import take_census
from dfq_plugin.validation.runtime import size_on_disk
from integration_tests.conftest import calibration_set


class TestConfig:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"[" * 100_000, "more than 32 objects and lists in each other"),
            (b'{"a":' * 100_000, "more than 32 objects"),
            (b"]" * 99 + b"[" * 100_000, "more than 32 objects"),
            (b'{"model": "' + b"x" * 2**21 + b'"}', "larger than 1024 KiB"),
            (b"\xff\xfe{}", "cannot be read as a UTF-8 text file"),
            (b"{}\x00", "syntax error"),
            (b'{"model": 1e999999}', "problems"),
            (b'{"input_shape": [' + b"9" * 6000 + b", 1, 1]}", "syntax error"),
            (b'{"__proto__": {}, "__class__": 1}', "unknown key"),
        ],
        ids=["lists", "objects", "closed first", "large", "utf-16", "nul", "infinite", "digits", "names"],
    )
    def test_is_refused(self, content: bytes, message: str, tmp_path: Path) -> None:
        path = tmp_path / "job.json"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message) as caught:
            load_config(path)
        assert "job.json" in str(caught.value)
        assert len(str(caught.value)) < 3000

    def test_override_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="--set a:1: more than 32"):
            load_config({}, ["a=" + "[" * 100_000])

    def test_content_that_holds_itself_is_refused(self) -> None:
        content: dict[str, Any] = {}
        content["model"] = content
        with pytest.raises(ConfigError, match="cannot be written as JSON"):
            load_config(content)

    def test_endless_file_is_refused(self) -> None:
        if not Path("/dev/zero").exists():
            pytest.skip("no endless file here")
        with pytest.raises(ConfigError, match="larger than"):
            load_config("/dev/zero")


def png(width: int, height: int) -> bytes:
    """A file of a few bytes that says it holds an image of this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


class TestImage:
    def test_bomb_is_refused_before_it_is_decoded(self, tmp_path: Path) -> None:
        (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000))
        with pytest.raises(InputError, match=r"3600000000 pixels|60000 x 60000 pixels, more than 134217728 in all"):
            decode_image(tmp_path / "bomb.png", (3, 16, 16), None)

    def test_limit_is_ours_whatever_pillow_is_set_to(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        self.test_bomb_is_refused_before_it_is_decoded(tmp_path)

    def test_strip_that_would_grow_is_refused(self, tmp_path: Path) -> None:
        Image.new("RGB", (1, 50_000)).save(tmp_path / "strip.png")
        with pytest.raises(InputError, match="224 x 11200000 pixels"):
            decode_image(tmp_path / "strip.png", (3, 192, 192), 224)

    def test_only_pictures_are_opened_whatever_the_name_says(self, tmp_path: Path) -> None:
        script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) (w) file\n%%EOF\n"
        (tmp_path / "program.png").write_bytes(script)  # which Pillow would hand to Ghostscript
        with pytest.raises(Exception, match="cannot identify image file"):
            decode_image(tmp_path / "program.png", (3, 16, 16), None)


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.target,)


class TestWeights:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_a_pickle_does_not_run(self, zipped: bool, tmp_path: Path) -> None:
        path = tmp_path / "weights.pt"
        torch.save({"weight": Touch(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError, match=r"weights\.pt cannot be read as weights .* reading them runs code"):
            read_weights(path)
        assert not (tmp_path / "ran").exists()

    def test_archive_with_names_that_lead_elsewhere_writes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "in" / "weights.pth"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../../escaped/data.pkl", b"\x80\x02}q\x00.")
        with pytest.raises(InputError, match="cannot be read as weights"):
            read_weights(path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["in"]

    @pytest.mark.parametrize(
        "head",
        [
            {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}},
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}},
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
            {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
            {"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}},
            {"a": {"dtype": "F32", "shape": [1]}},
            {"__metadata__": {"a": {}}},
            [1],
        ],
    )
    def test_safetensors_head_that_lies_is_refused(self, head: object, tmp_path: Path) -> None:
        text = json.dumps(head).encode()
        path = tmp_path / "weights.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
        with pytest.raises(InputError, match=r"weights\.safetensors cannot be read as a safetensors file"):
            read_tensors(path)

    @pytest.mark.parametrize("size", [2**63, 2**40, 101 * 2**20])
    def test_safetensors_head_larger_than_the_file_is_refused(self, size: int, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        path.write_bytes(struct.pack("<Q", size) + b"{}")
        with pytest.raises(InputError, match="cannot be read as a safetensors file"):
            read_tensors(path)


class TestOwnFiles:
    def test_flipped_bit_anywhere_in_a_set_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "set.safetensors"
        calibration_set().save(path)
        whole = path.read_bytes()
        for place in [3, 20, 200, *range(300, len(whole), len(whole) // 40), len(whole) - 1]:
            content = bytearray(whole)
            content[place] ^= 4
            path.write_bytes(content)
            with pytest.raises(InputError, match=r"set\.safetensors"):
                SyntheticSet.load(path)

    @pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
    def test_cut_off_set_is_noticed(self, length: int, tmp_path: Path) -> None:
        path = tmp_path / "set.safetensors"
        calibration_set().save(path)
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(InputError, match=r"set\.safetensors"):
            SyntheticSet.load(path)

    @pytest.mark.parametrize("place", ["/lib/evil.so", "../evil.so"])
    def test_note_of_the_kernels_names_no_library_of_elsewhere(self, place: str, tmp_path: Path) -> None:
        folder = tmp_path / "kernels"
        folder.mkdir()
        (tmp_path / "evil.so").touch()
        library = place.replace("/lib", str(tmp_path))
        (folder / FINISHED).write_text(json.dumps({"library": library}))
        assert built_extension(folder) is None


def model_with_outside_weight(path: Path, **told: str) -> Path:
    """A sound model but for where it says that its weight lies."""
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in told.items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])], "g", values[:1], values[1:], [weight]
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())
    return path


class TestModel:
    def test_weight_beside_the_model_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
        path = model_with_outside_weight(tmp_path / "model.onnx", location="weights.bin", offset="0", length="64")
        assert size_on_disk(path) == path.stat().st_size + 64
        assert take_census(path).products_asked == 0

    @pytest.mark.parametrize(
        ("told", "message"),
        [
            ({"location": "/etc/hostname"}, "no name of a file beside it"),
            ({"location": "C:\\secret.bin"}, "no name of a file beside it"),
            ({"location": "\\\\server\\share"}, "no name of a file beside it"),
            ({"location": ""}, "no name of a file beside it"),
            ({}, "no name of a file beside it"),
            ({"location": "../secret.bin"}, "leads out of its folder"),
            ({"location": "below/../../secret.bin"}, "leads out of its folder"),
            ({"location": "below\\..\\..\\secret.bin"}, "leads out of its folder"),
            ({"location": "link.bin"}, "is a link"),
            ({"location": "linked/secret.bin"}, "is a link"),
            ({"location": "missing.bin"}, "is no file beside it"),
            ({"location": "below"}, "is no file beside it"),
            ({"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096"}, "is no file beside it"),
            ({"location": "own.bin", "offset": "-8"}, "at a place that it does not have"),
            ({"location": "own.bin", "offset": "32", "length": "64"}, "at a place that it does not have"),
            ({"location": "own.bin", "length": "9" * 30}, "at a place that it does not have"),
            ({"location": "own.bin", "offset": "x"}, "at a place that it does not have"),
        ],
        ids=str,
    )
    def test_weight_from_elsewhere_is_refused(self, told: dict[str, str], message: str, tmp_path: Path) -> None:
        folder = tmp_path / "folder"
        (folder / "below").mkdir(parents=True)
        (tmp_path / "secret.bin").write_bytes(b"\0" * 64)
        (folder / "own.bin").write_bytes(b"\0" * 64)
        if sys.platform != "win32":
            (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
            (folder / "linked").symlink_to(tmp_path)
        path = model_with_outside_weight(folder / "model.onnx", **told)
        with pytest.raises(InputError, match=message) as caught:
            take_census(path)
        assert "keeps the weight 'weight' in" in str(caught.value)

    def test_weight_in_a_graph_inside_a_node_is_looked_at_too(self, tmp_path: Path) -> None:
        inner = onnx.load(model_with_outside_weight(tmp_path / "inner.onnx", location="../x"), load_external_data=False)
        node = helper.make_node("If", ["c"], ["y"], then_branch=inner.graph, else_branch=inner.graph)
        condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
        graph = helper.make_graph([node], "g", [condition], list(inner.graph.output))
        (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
        with pytest.raises(InputError, match="leads out of its folder"):
            take_census(tmp_path / "model.onnx")

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07\x12", b"\x3a\xff\xff\xff\xff\x0f"])
    def test_file_of_another_kind_is_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(DFQError, match=r"model\.onnx"):
            take_census(tmp_path / "model.onnx")

    @pytest.mark.usefixtures("kernels")
    def test_validate_command_ends_with_one_message_and_keeps_what_it_was_given(
        self, job: dict[str, Any], tmp_path: Path
    ) -> None:
        job["model"]["source"] = "python:integration_tests.networks:sequential"
        config = tmp_path / "job.json"
        config.write_text(json.dumps(job))
        assert CliRunner().invoke(app, ["quantize", str(config)]).exit_code == 0
        output = Path(job["output_dir"])
        model = model_with_outside_weight(output / "model.onnx", location="../job.json")
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        result = CliRunner().invoke(app, ["validate", str(config)])
        assert result.exit_code == 2, result.output
        assert (
            f"dfq: {model} keeps the weight 'weight' in '../job.json', which leads out of its folder" in result.stderr
        )
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
