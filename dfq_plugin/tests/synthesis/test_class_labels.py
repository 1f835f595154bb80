from __future__ import annotations

import pytest
import torch

from dfq_plugin.synthesis.class_labels import balanced_labels


@pytest.mark.parametrize(("count", "classes"), [(10, 10), (25, 10), (7, 3), (3, 10)])
def test_counts_of_classes_differ_by_one_at_most(count: int, classes: int) -> None:
    counts = torch.bincount(balanced_labels(classes, 0, count, seed=0), minlength=classes)
    assert counts.sum().item() == count
    assert counts.max().item() - counts.min().item() <= 1


def test_batches_continue_each_other() -> None:
    whole = balanced_labels(7, 0, 20, seed=1)
    parts = [balanced_labels(7, first, size, seed=1) for first, size in ((0, 9), (9, 9), (18, 2))]
    assert torch.equal(torch.cat(parts), whole)


def test_the_seed_decides_which_classes_come_first() -> None:
    assert torch.equal(balanced_labels(100, 0, 5, seed=1), balanced_labels(100, 0, 5, seed=1))
    assert not torch.equal(balanced_labels(100, 0, 5, seed=1), balanced_labels(100, 0, 5, seed=2))
    assert balanced_labels(100, 0, 100, seed=1).tolist() != list(range(100))
