"""Unit tests of tracking."""
