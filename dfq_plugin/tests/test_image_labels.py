"""Labels are read where they are certain, and not guessed."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from dfq_plugin.errors import InputError
from dfq_plugin.image_labels import labels_from_folders, labels_from_names

ROOT = Path("photos")


def files(*names: str) -> list[Path]:
    return [ROOT / name for name in names]


class TestLabelsFromFolders:
    def test_number_the_sorted_names_when_each_class_has_a_folder(self) -> None:
        assert labels_from_folders(ROOT, files("dog/1.png", "cat/1.png", "cat/deep/2.png"), 2) == [1, 0, 0]

    def test_take_numbers_as_they_are(self) -> None:
        assert labels_from_folders(ROOT, files("2/a.png", "10/a.png", "007/a.png"), 11) == [2, 10, 7]

    def test_are_none_with_a_warning_when_some_class_has_no_folder(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, logger="nncf.dfq_plugin.images"):
            assert labels_from_folders(ROOT, files("dog/1.png", "cat/1.png"), 3) is None
        assert "2 sub-folders with images but the network has 3 classes" in caplog.text

    def test_are_none_when_an_image_lies_beside_the_folders(self) -> None:
        assert labels_from_folders(ROOT, files("0/a.png", "b.png"), 2) is None

    def test_refuse_a_number_that_is_no_class(self) -> None:
        with pytest.raises(InputError, match=r"4/a\.png has label 4, but the network has 4 classes \(0\.\.3\)"):
            labels_from_folders(ROOT, files("0/a.png", "4/a.png"), 4)


class TestLabelsFromNames:
    def test_take_the_first_group(self) -> None:
        pattern = re.compile(r"class(\d+)_(\d+)")
        assert labels_from_names(pattern, files("x_class3_9.png", "deep/class0_7.png"), 4) == [3, 0]

    @pytest.mark.parametrize("name", ["class_1.png", "classA_1.png"])
    def test_name_the_file_that_has_none(self, name: str) -> None:
        with pytest.raises(InputError, match=f"finds no number in the file name '{name}'"):
            labels_from_names(re.compile(r"class(\w*)_"), files("class1_.png", name), 4)

    def test_refuse_a_number_that_is_no_class(self) -> None:
        with pytest.raises(InputError, match=r"class4_\.png has label 4"):
            labels_from_names(re.compile(r"class(\d)_"), files("class4_.png"), 4)
