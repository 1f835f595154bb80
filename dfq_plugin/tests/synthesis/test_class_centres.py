from __future__ import annotations

import torch

from dfq_plugin.synthesis.class_centres import ClassCentres

FEATURES = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])


def test_centre_is_the_mean_over_all_batches_added() -> None:
    centres = ClassCentres(4)
    centres.add(FEATURES, torch.tensor([0, 0, 2]))
    centres.add(torch.tensor([[5.0, 1.0]]), torch.tensor([0]))
    found = centres.of(torch.tensor([2, 0, 1]))
    assert found is not None
    assert found[0].tolist() == [[5.0, 5.0], [3.0, 1.0], [0.0, 0.0]]
    assert found[1].tolist() == [True, True, False]
    assert found[0].dtype == torch.float32


def test_nothing_is_known_before_the_first_image() -> None:
    assert ClassCentres(4).of(torch.tensor([0])) is None


def test_centres_hold_no_graph() -> None:
    centres = ClassCentres(4)
    centres.add(FEATURES.clone().requires_grad_(), torch.tensor([0, 1, 2]))
    found = centres.of(torch.tensor([0]))
    assert found is not None
    assert not found[0].requires_grad
