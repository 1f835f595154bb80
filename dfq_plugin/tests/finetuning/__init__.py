"""Unit tests of the distillation loop and its losses."""
