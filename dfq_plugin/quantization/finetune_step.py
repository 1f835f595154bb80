"""Fine-tuning as a step of NNCF's compression loop.

The step knows nothing of how a student learns: it is handed a function, so that this stage does not depend on the next.
"""

from __future__ import annotations

from collections.abc import Callable

import nncf
import torch
from nncf.common.graph import NNCFGraph
from nncf.common.tensor_statistics.statistic_point import StatisticPointsContainer
from nncf.common.utils.backend import BackendType
from nncf.quantization.algorithms.algorithm import Algorithm
from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import GraphModelWrapper
from torch import nn

from dfq_plugin.student import Student


class FinetuneStep(Algorithm):  # type: ignore[misc]  # NNCF ships no types
    """Train the network that the steps before have quantized; append it to the last step of a pipeline.

    Args:
        student_of: gives the hooked network as a student, such as ``LowBitStep.student`` with an input shape.
        train: trains a student in place.
    """

    def __init__(self, student_of: Callable[[nn.Module], Student], train: Callable[[Student], object]) -> None:
        self._student_of = student_of
        self._train = train

    @property
    def available_backends(self) -> list[BackendType]:
        return [BackendType.TORCH]

    def get_statistic_points(self, model: GraphModelWrapper, graph: NNCFGraph) -> StatisticPointsContainer:  # noqa: ARG002
        return StatisticPointsContainer()

    def apply(
        self,
        model: GraphModelWrapper,
        graph: NNCFGraph,  # noqa: ARG002 - the base class's signature
        statistic_points: StatisticPointsContainer | None = None,  # noqa: ARG002
        dataset: nncf.Dataset | None = None,  # noqa: ARG002
    ) -> GraphModelWrapper:
        with torch.enable_grad():  # NNCF's loop runs without
            self._train(self._student_of(model.model))
        return model
