"""Finetune: the student learns from the teacher on synthetic images."""

from dfq_plugin.finetuning.hooks import FinetuneHooks
from dfq_plugin.finetuning.loop import History, as_source, finetune

__all__ = ["FinetuneHooks", "History", "as_source", "finetune"]
