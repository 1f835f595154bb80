"""Tests of the stage export that need no ONNX."""
