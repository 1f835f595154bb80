"""Unit tests of the providers."""
