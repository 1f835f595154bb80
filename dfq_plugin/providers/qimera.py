"""Qimera: a generator of images between classes, made by mixing the embeddings of several labels.

Paper: Qimera: Data-free Quantization with Synthetic Boundary Supporting Samples, K. Choi, D. Hong, N. Park, Y. Kim,
J. Lee, NeurIPS 2021, arXiv:2111.02625. Written from the published procedure; the released sources were not used.

With probability p a batch is superposed, otherwise each of its images is of one class. Superposed: K labels y_k and
weights w = softmax of K normal numbers for each image; its latent is sum over k of w_k * M(N(E[y_k] + z_k)), its soft
label gives w_k to class y_k. One class: latent M(N(E[y] + z)), label y. E is a trained embedding that starts from the
rows of the teacher's classifier, z is noise, N standardises, M is a trained linear map (disentanglement mapping).
Objective of the generator, for images x and teacher P:
    cross_entropy  mean over images of the cross-entropy between P(x) and the (soft) label
    batchnorm      0.1 times the squared distance of mean and variance at the inputs of the BatchNorm layers from the
                   stored ones, averaged over channels, then over layers
The student learns from x by cross-entropy with the (soft) labels and by distillation, as in GDFQ: losses
{"cross_entropy": 1, "kl": 1} with temperature 20 and kl_reduction "mean".

Deviations from the released code:
    D1  the mapping M is on by default, as in the paper; a slip in the code's options switches it off in every script.
    D2  the scales and shifts of the large network are mixed by the weights w; the code divides that mixture by K.
    D3  the large network's noise has the scale that the setting says; the code ignores it there.
    D4  images of any size and any number of channels; at 32 and at 224 pixels the networks are the papers'.
    D5  random numbers are this package's own, so that seeds do not give the images of the code.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.batches import Batch
from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.providers.base import cited
from dfq_plugin.providers.online import OnlineProvider
from dfq_plugin.providers.registry import register_provider
from dfq_plugin.synthesis.generator_source import GeneratorMethod, Objective, Seen
from dfq_plugin.synthesis.generators import ImageGenerator
from dfq_plugin.synthesis.losses import batchnorm_loss
from dfq_plugin.teacher import ModelFacts

FEWEST_MIXED, CLASSES_PER_MIXED = 2, 10  # gives the released codes' 2 of 10, 10 of 100 and 100 of 1000 classes


@register_provider
class Qimera(OnlineProvider):
    """Train a generator on the teacher alone: images of one class, and images on the boundaries between several."""

    name: ClassVar[str] = "qimera"
    paper: ClassVar[str] = (
        "Qimera: Data-free Quantization with Synthetic Boundary Supporting Samples, NeurIPS 2021, arXiv:2111.02625"
    )
    needs: ClassVar[str] = (
        "BatchNorm layers that keep running statistics; with embedding 'classifier' also a Linear or 1x1 convolution "
        "as classifier"
    )

    batchnorm_weight: float = cited(0.1, "released code", "Weight of the BatchNorm term.", ge=0)
    superposed_probability: float = cited(
        0.4, "released code (0.7 for ResNet-50)", "Chance that a batch is superposed.", ge=0, le=1
    )
    superposed_classes: int | None = cited(
        None,
        "this project: null is a tenth of the classes, at least 2, as in the released code for CIFAR at 4 bits",
        "How many labels a superposed image mixes.",
        ge=2,
    )
    noise_scale: float = cited(1.0, "released code", "Deviation of the noise that is added to an embedding.", ge=0)
    embedding: Literal["classifier", "random"] = cited(
        "classifier",
        "paper (released code: random for CIFAR-10, ResNet-18 and MobileNetV2)",
        "What the embedding of a label starts from: the row of the teacher's classifier, or normal numbers.",
    )
    embedding_size: int = cited(64, "released code (CIFAR-10)", "Width of a random embedding.", ge=2)
    disentangle: bool = cited(
        default=True, source="paper (off in the released scripts)", description="Map embeddings before they are mixed."
    )
    mapped_size: int = cited(100, "released code", "Width of a mapped embedding.", ge=1)

    def requires(self, facts: ModelFacts) -> None:
        super().requires(facts)
        if self.embedding == "classifier" and facts.classifier is None:
            msg = (
                "Provider 'qimera' starts its embeddings from a Linear or 1x1 convolution that gives the classes, and "
                "this teacher has none; set embedding to 'random'."
            )
            raise UnsupportedModelError(msg)

    def make_method(self, teacher: nn.Module, facts: ModelFacts) -> GeneratorMethod:
        if self.embedding == "classifier" and facts.classifier is not None:
            rows = teacher.get_parameter(f"{facts.classifier}.weight").detach().flatten(1).clone()
        else:
            rows = torch.randn(facts.num_classes, self.embedding_size)
        latent_size = self.mapped_size if self.disentangle else rows.shape[1]
        mapping = nn.Linear(rows.shape[1], self.mapped_size) if self.disentangle else nn.Identity()
        generator = ImageGenerator(facts.input_shape, latent_size, facts.num_classes if self.is_large(facts) else None)
        mixed = self.superposed_classes or max(FEWEST_MIXED, facts.num_classes // CLASSES_PER_MIXED)
        return _Superposition(rows, mapping, generator, mixed, self)


class _Superposition(GeneratorMethod):
    """A generator of mixed embeddings, trained by what the teacher says."""

    def __init__(
        self, rows: Tensor, mapping: nn.Module, generator: ImageGenerator, mixed: int, settings: Qimera
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(rows, freeze=False)
        self.mapping, self.generator = mapping, generator
        self.mixed, self.settings = mixed, settings

    def draw(self, count: int, random: torch.Generator) -> Batch:
        superposed = torch.rand((), generator=random).item() < self.settings.superposed_probability
        shape = (count, self.mixed if superposed else 1)
        classes, width = self.embedding.weight.shape
        like = self.embedding.weight
        labels = torch.randint(classes, shape, generator=random).to(like.device)
        noise = torch.randn(*shape, width, generator=random).to(like) * self.settings.noise_scale
        weights = torch.randn(shape, generator=random).softmax(dim=1).to(like)  # 1 where there is one label
        mixtures = mix_labels(labels, weights, classes)
        latents = (weights.unsqueeze(2) * self.mapping(standardise(self.embedding(labels) + noise))).sum(dim=1)
        return Batch(self.generator(latents, mixtures), soft_labels=mixtures)

    def objective(self, seen: Seen) -> Objective:
        cross_entropy = F.cross_entropy(seen.logits, seen.batch.targets)
        batchnorm = self.settings.batchnorm_weight * batchnorm_loss(seen.statistics)
        return Objective({"cross_entropy": cross_entropy, "batchnorm": batchnorm})


def mix_labels(labels: Tensor, weights: Tensor, classes: int) -> Tensor:
    """Soft labels, (N, classes), giving each of the labels, (N, K) int64, its weight, (N, K); equal labels add up."""
    return torch.zeros(len(labels), classes).to(weights).scatter_add(1, labels, weights)


def standardise(embeddings: Tensor) -> Tensor:
    """Bring embeddings, (N, K, D), to mean 0 and variance 1.

    A single embedding per image (K = 1) is standardised over its own D values, several are standardised for each of the
    K places over all images and values together.
    """
    dims = (2,) if embeddings.shape[1] == 1 else (0, 2)
    variance, mean = torch.var_mean(embeddings, dim=dims, correction=0, keepdim=True)
    return (embeddings - mean) / (variance + 1e-5).sqrt()
