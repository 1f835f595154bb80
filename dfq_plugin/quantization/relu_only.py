"""The quantizer of the papers, to re-run their tables: on weights, with a zero point, and behind each ReLU.

ZeroQ, GDFQ, Qimera, AdaDFQ, IntraQ and their kin share it. Activations get one range a tensor, behind each ReLU or
ReLU6: the image, the classifier's input, the branches of an addition and the bottlenecks of MobileNetV2 stay in float.
Weights of all layers get the range from their least to their largest value, one for each output channel, which while
they are trained is taken anew at every step (``finetune.weight_range``). Biases stay in float.

Deviations: BatchNorm is folded, which scales each channel of a weight together with its grid. Where zero has no code,
NNCF widens the range by less than a step instead of shifting it. Ranges of activations are what
``quantize.activation_range`` says, or moving extremes without the mistake of the released codes (``extremes``).
"""

from __future__ import annotations

from nncf.common.quantization.structs import QuantizationScheme
from nncf.torch.function_hook import get_hook_storage
from nncf.torch.function_hook.hook_storage import decode_hook_name
from nncf.torch.quantization.layers import AsymmetricQuantizer
from torch import nn

from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.quantization.placement import placed_quantizers, quantizer_of, remove_quantizers, specification


def give_weights_zero_points(network: nn.Module, graph: OperatorGraph) -> None:
    """Exchange the quantizers of weights for asymmetric ones; their ranges are still to be set.

    Args:
        network: hooked by NNCF; changed in place.
        graph: the network as it was before.
    """
    storage = get_hook_storage(network)
    for name in placed_quantizers(network):
        when, operator, port = decode_hook_name(name)
        if when == "pre_hooks" and port in graph.parameters(graph.node(operator)):
            symmetric = quantizer_of(network, name)
            with_zero_point = AsymmetricQuantizer(specification(QuantizationScheme.ASYMMETRIC, symmetric.scale.shape))
            remove_quantizers(network, [name])
            storage.register_pre_function_hook(operator, port, with_zero_point.to(symmetric.scale.device))
