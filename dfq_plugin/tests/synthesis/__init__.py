"""Tests of what providers share."""
