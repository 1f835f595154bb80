"""A full report to test with."""

from __future__ import annotations

from typing import Any

from dfq_plugin.report import Report

CALIBRATION = "256 synthetic images by intraq, seed 0"
HELD_OUT = "500 images of folder:photos"
BASELINE = {"images": 256, "kl_nats": 0.5, "logits_sqnr_db": 9.5, "seconds": 75.0}


def full_content() -> dict[str, Any]:
    return {
        "model": "timm:tiny, W4A4",
        "calibration_set": CALIBRATION,
        "accuracy": {"teacher": 75.0, "student": 70.5, "onnx": 70.25},
        "agreement": {"student": 90.0, "onnx": 89.5},
        "census": {"integer": 52, "float": 0, "float_nodes": []},
        "parity": {"codes_compared": 12_345_678, "mismatches": 0, "tensors": 51},
        "latency_ms": {"float": 10.0, "integer": 4.0},
        "size_bytes": {"float": 4096.0, "integer": 1024.0},
        "bits": [
            {"name": "q/0", "kind": "weight", "layer": "conv1", "requested": 4, "applied": 8, "reason": "first layer"},
            {"name": "q/1", "kind": "weight", "layer": "conv2", "requested": 4, "applied": 4, "reason": ""},
            {"name": "q/2", "kind": "activation", "layer": "conv2", "requested": 4, "applied": 4, "reason": ""},
        ],
        "measured_on": {
            "accuracy": HELD_OUT,
            "agreement": HELD_OUT,
            "parity": "16 noise images",
            "latency_ms": "one thread, batch 1",
            "sqnr_db": "64 other synthetic images",
            "batchnorm_match": "at most 64 images of each kind",
        },
        "layers": [
            {"layer": "conv1", "weight_bits": 8, "input_bits": 8, "input_sqnr_db": float("inf")},
            {"layer": "conv2", "weight_bits": 4, "input_bits": 4, "input_sqnr_db": 20.5},
            {"layer": "fc", "weight_bits": 4, "input_bits": None, "input_sqnr_db": None},
        ],
        "baselines": {
            "noise": {**BASELINE, "accuracy": 60.5, "agreement": 71.25},
            "folder:photos": {**BASELINE, "accuracy": 72.0, "agreement": 93.75},
        },
        "synthesis_curves": [
            {"provider": "intraq", "at": [1, 50, 100], "values": {"batchnorm": [4.0, 0.5, 0.125]}},
        ],
        "batchnorm_match": [
            {"layer": "bn1", "noise": 1.5, "synthetic": 0.25, "real": 0.0625},
            {"layer": "bn2", "noise": 2.5, "synthetic": 0.75, "real": 0.1875},
        ],
        "command": "dfq run 'runs/my run/config.json'",
        "sqnr_db": [("conv1", 20.5), ("conv2", 12.25), ("fc", float("inf"))],
        "losses": {"total": [3.0, 1.0, 0.01], "distillation": [2.0, float("nan"), 0.005]},
        "timings_s": {"synthesize": 90.0, "quantize": 10.0},
        "peak_memory_bytes": 2048,
        "provenance": {"seed": 0, "versions": {"torch": "2.15.0"}},
        "config": {"model": {"source": "timm:tiny"}},
        "evidence": "Loaded at full optimisation; operators counted.",
        "notes": ["One note."],
    }


def full_report(**changes: Any) -> Report:
    return Report(**{**full_content(), **changes})
