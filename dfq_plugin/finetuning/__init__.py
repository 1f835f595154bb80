"""Finetune: the student learns from the teacher on the synthetic set."""

from dfq_plugin.finetuning.loop import History, finetune

__all__ = ["History", "finetune"]
