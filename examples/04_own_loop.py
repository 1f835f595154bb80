"""04. Data-free fine-tuning in a training loop of one's own, on scikit-learn's digits.

The network of ``01_digits.py`` is quantized to 2 bits on images that AdaDFQ makes, then trained by the loop below, on
batches of a generator that learns along. ``--accelerate`` lets Hugging Face Accelerate drive the same hooks, on as many
devices as ``accelerate launch`` is told to use; ``--smoke`` does less of everything. Run it with
``python examples/04_own_loop.py``.
"""

from __future__ import annotations

import sys

import torch
from digits_task import MEAN, SHAPE, STD, accuracy, load_data, train
from torch import nn

import dfq_plugin as dfq
from dfq_plugin.config import FinetuneSettings
from dfq_plugin.finetuning import FinetuneHooks
from dfq_plugin.providers.adadfq import AdaDFQ
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.student import Student
from dfq_plugin.teacher import read_facts

SMOKE = "--smoke" in sys.argv
SETTINGS = FinetuneSettings(epochs=4 if SMOKE else 10, lr=1e-2, losses={"kl": 1.0, "mse": 0.1})
PROVIDER = AdaDFQ(steps=40 if SMOKE else 200, steps_per_epoch=30, warmup_epochs=2, batch_size=32)


def main() -> None:
    """Train the float network, quantize it, train the quantized one, print what each gets right."""
    train_images, test_images, train_labels, test_labels = load_data()
    teacher = train(train_images, train_labels, epochs=4 if SMOKE else 30)
    params = PROVIDER.model_dump()
    synthetic = dfq.generate(
        teacher, provider="adadfq", input_shape=SHAPE, num_samples=128, params=params, mean=MEAN, std=STD
    )
    student = dfq.quantize(teacher, synthetic, weight_bits=2, activation_bits=2)
    before = accuracy(student, test_images, test_labels)
    hooks = (accelerated_loop if "--accelerate" in sys.argv else own_loop)(teacher, student)
    print(f"float {accuracy(teacher, test_images, test_labels):.2f} %")
    print(f"2 bits {before:.2f} %")
    print(f"2 bits, trained {accuracy(student, test_images, test_labels):.2f} %")
    print(
        "adaptability of the images by epoch:", *(f"{value:.3f}" for value in hooks.curves()["generator.adaptability"])
    )


def make_hooks(teacher: nn.Module, student: Student, seed: int) -> FinetuneHooks:
    """Hooks on batches of a generator that adapts to the student; ``FixedBatches`` would do for a set of images."""
    source = PROVIDER.source(teacher, read_facts(teacher, SHAPE), GenerationRequest(1, seed))
    return FinetuneHooks(teacher, student, source, SETTINGS)


def own_loop(teacher: nn.Module, student: Student) -> FinetuneHooks:
    """An ordinary loop: five lines have to do with the hooks."""
    with make_hooks(teacher, student, seed=0) as hooks:
        optimizer = torch.optim.Adam(hooks.parameter_groups())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, SETTINGS.epochs)
        for epoch in range(SETTINGS.epochs):
            for batch in hooks.epoch(epoch):
                optimizer.zero_grad()
                hooks.loss(batch).backward()
                optimizer.step()
                hooks.after_step()
            schedule.step()
    return hooks


def accelerated_loop(teacher: nn.Module, student: Student) -> FinetuneHooks:
    """The same loop under Hugging Face Accelerate; every process has a generator of its own."""
    try:
        from accelerate import Accelerator
    except ImportError:
        sys.exit("--accelerate needs Hugging Face Accelerate: pip install 'dfq-plugin[distributed]'")
    accelerator = Accelerator()
    with make_hooks(teacher, student, seed=accelerator.process_index) as hooks:
        network, optimizer = accelerator.prepare(student, torch.optim.Adam(hooks.parameter_groups()))
        for epoch in range(SETTINGS.epochs):
            for batch in hooks.epoch(epoch):
                optimizer.zero_grad()
                accelerator.backward(hooks.loss(batch, network))
                optimizer.step()
                hooks.after_step()
    return hooks


if __name__ == "__main__":
    main()
