"""The networks that the export table is made of, at the smallest size that makes sense for each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZES = {  # of the sides of the image; 64 for every other network
    "inception_v3": 96,
    "alexnet": 224,  # its adaptive pool leaves the map as it is
    "vgg": 224,
    "maxvit_t": 224,
    "vit_h_14": 56,
}
TIMM = {  # at most 10 M parameters; the sizes are those the network insists on
    "mobilenetv4_conv_small": 64,
    "mobileone_s0": 64,
    "fastvit_t8": 64,
    "repvit_m0_9": 64,
    "efficientvit_b0": 64,
    "ghostnetv2_100": 64,
    "rexnet_100": 64,
    "levit_128s": 224,
    "mobilevit_xxs": 64,
    "mobilevitv2_050": 64,
    "edgenext_xx_small": 64,
    "convnextv2_atto": 64,
    "pit_ti_224": 224,
    "deit_tiny_patch16_224": 224,
    "xcit_nano_12_p16_224": 224,
    "crossvit_tiny_240": 240,
    "resnet10t": 64,
    "regnetz_005": 64,
    "dla46_c": 64,
    "hgnetv2_b0": 64,
    "cs3darknet_focus_s": 64,
    "shvit_s1": 64,
    "starnet_s1": 64,
    "mixnet_s": 64,
    "inception_next_atto": 64,
    "pvt_v2_b0": 64,
    "swiftformer_xs": 224,
    "ese_vovnet19b_slim_dw": 64,
    "efficientformerv2_s0": 224,
    "repvgg_a0": 64,
    "gmlp_ti16_224": 224,
}
SEGMENTATION = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50")


class MainOutput(nn.Module):
    """A segmentation network that gives its main output alone, (N, classes, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The scores of every class at every pixel."""
        scores: Tensor = self.network(images)["out"]
        return scores


def names_of(family: str) -> list[str]:
    """The networks of ``batchnorm`` and ``plain``, torchvision's with and without it (MaxViT has both), and others."""
    from torchvision import models

    if family == "timm":
        return list(TIMM)
    if family == "segmentation":
        return list(SEGMENTATION)
    plain = ("alexnet", "convnext", "maxvit", "squeezenet", "swin", "vit", "vgg")
    everything = models.list_models(module=models)
    others = [name for name in everything if name.startswith(plain) and not name.endswith("_bn")]
    return others if family == "plain" else [name for name in everything if name not in others]


def size_of(name: str) -> int:
    """The side of the square image."""
    if name in TIMM:
        return TIMM[name]
    return SIZES.get(name, SIZES["vgg"] if name.startswith("vgg") else 64)


def build(name: str) -> nn.Module:
    """The network with random weights, and BatchNorm statistics of random images."""
    torch.manual_seed(0)
    size = size_of(name)
    if name in TIMM:
        import timm

        network = timm.create_model(name)
    elif name in SEGMENTATION:
        from torchvision.models import segmentation

        network = MainOutput(getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=21))
    else:
        from torchvision import models

        options: dict[str, object] = {}
        if name.startswith("vit"):
            options = {"image_size": size}
        elif name in {"googlenet", "inception_v3"}:
            options = {"aux_logits": False, "init_weights": False}
        network = models.get_model(name, weights=None, **options)
    return set_statistics(network, images(size, 8))


def images(size: int, count: int) -> Tensor:
    """Random images, (N, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def set_statistics(network: nn.Module, batch: Tensor) -> nn.Module:
    """Let every BatchNorm hold the statistics of one random batch, and no weight be zero all over."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for name, parameter in network.named_parameters():
        if not name.endswith("bias") and not parameter.any():  # as some networks start their training
            nn.init.uniform_(parameter, 0.5, 1.5)
    if norms:
        with torch.no_grad():
            network(batch)
    return network.eval()
