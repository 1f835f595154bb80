"""The catalogue of built-in providers: one method a file, imported when it is asked for by name."""

from __future__ import annotations

from typing import Final

BUILTIN_PROVIDERS: Final = {
    "adadfq": "dfq_plugin.providers.adadfq",
    "auto": "dfq_plugin.providers.auto",
    "dead_leaves": "dfq_plugin.providers.dead_leaves",
    "deepinversion": "dfq_plugin.providers.deepinversion",
    "folder": "dfq_plugin.providers.folder",
    "fractal": "dfq_plugin.providers.fractal",
    "gdfq": "dfq_plugin.providers.gdfq",
    "genie": "dfq_plugin.providers.genie",
    "gznq": "dfq_plugin.providers.gznq",
    "intraq": "dfq_plugin.providers.intraq",
    "mixture": "dfq_plugin.providers.mixture",
    "noise": "dfq_plugin.providers.noise",
    "none": "dfq_plugin.providers.none",
    "psaq": "dfq_plugin.providers.psaq",
    "qimera": "dfq_plugin.providers.qimera",
    "zeroq": "dfq_plugin.providers.zeroq",
}
