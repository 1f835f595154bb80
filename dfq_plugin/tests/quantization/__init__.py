"""Unit tests of the quantize stage."""
