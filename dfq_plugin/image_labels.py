"""Labels of image files, from the folders they lie in or from their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from dfq_plugin.errors import InputError

logger = logging.getLogger("nncf.dfq_plugin.images")


def labels_from_folders(folder: Path, files: Sequence[Path], num_classes: int) -> list[int] | None:
    """Give each file the class of the sub-folder it lies in.

    Sub-folders named by numbers are those classes. Other names are sorted and counted, which is right only when every
    class has its folder: a missing one would shift all labels after it.

    Args:
        folder: The folder that was asked for.
        files: Image files in it and below.
        num_classes: What the teacher tells apart.

    Returns:
        One label a file, or None when the folders do not name classes.

    Raises:
        InputError: A folder is named by a number that is no class of the teacher.
    """
    parts = [file.relative_to(folder).parts for file in files]
    if any(len(part) < 2 for part in parts):
        return None
    names = sorted({part[0] for part in parts})
    if all(re.fullmatch(r"[0-9]+", name) for name in names):
        return [_checked(int(part[0]), num_classes, file) for part, file in zip(parts, files, strict=True)]
    if len(names) != num_classes:
        logger.warning(
            "%s has %d sub-folders with images but the network has %d classes: no labels are read. Name the folders "
            "by class number, or have one for each class.",
            folder,
            len(names),
            num_classes,
        )
        return None
    place = {name: index for index, name in enumerate(names)}
    return [place[part[0]] for part in parts]


def labels_from_names(pattern: re.Pattern[str], files: Sequence[Path], num_classes: int) -> list[int]:
    """Give each file the number that the first group of a pattern finds in its name.

    Raises:
        InputError: The pattern finds no number in a name, or one that is no class of the teacher.
    """
    labels = []
    for file in files:
        found = pattern.search(file.name)
        if found is None or not re.fullmatch(r"[0-9]+", found.group(1) or ""):
            msg = f"label_pattern '{pattern.pattern}' finds no number in the file name '{file.name}' ({file.parent})."
            raise InputError(msg)
        labels.append(_checked(int(found.group(1)), num_classes, file))
    return labels


def _checked(label: int, num_classes: int, file: Path) -> int:
    if label >= num_classes:
        msg = f"{file} has label {label}, but the network has {num_classes} classes (0..{num_classes - 1})."
        raise InputError(msg)
    return label
