"""Unit tests of the kit for authors of providers."""
