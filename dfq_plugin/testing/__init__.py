"""What the author of a provider inherits and calls in tests."""

from __future__ import annotations

from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.testing.networks import TinyNetwork, tiny_teacher

__all__ = ["ProviderContract", "TinyNetwork", "tiny_teacher"]
