"""Unit tests of the validate stage."""
