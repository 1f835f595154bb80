"""The catalogue of built-in providers: one method a file, imported when it is asked for by name."""

from __future__ import annotations

from typing import Final

BUILTIN_PROVIDERS: Final = {
    "folder": "dfq_plugin.providers.folder",
    "intraq": "dfq_plugin.providers.intraq",
    "noise": "dfq_plugin.providers.noise",
    "zeroq": "dfq_plugin.providers.zeroq",
}
