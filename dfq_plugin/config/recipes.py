"""Recipes: what to choose, for the bits and the images, where the config says nothing.

A recipe only fills in: whatever a file or the command line says wins, setting by setting. What each costs and gives is
measured in ``docs/recipes.md``.
"""

from __future__ import annotations

from typing import Any

from dfq_plugin.config.statements import Statements, flatten

LARGE_SIDE = 64  # pixels; of an image with a longer side each step of reconstruction costs too much on a CPU
EIGHT = 8  # at eight bits rounding to the right neighbour is enough; below, it has to be learned


# Half of the images come from the method that suits the network, half are fractals: what the one kind lacks the other
# has. The steps are for a CPU; the methods' own defaults are those of papers, made for a GPU and hours.
def _mixture(steps: int, learning_rate: float, batch_size: int) -> dict[str, Any]:
    params = {"prefer": "speed", "steps": steps, "learning_rate": learning_rate, "batch_size": batch_size}
    return {
        "provider": "mixture",
        "params": {"parts": [{"provider": "auto", "params": params}, {"provider": "fractal"}]},
    }


_SYNTHESIS = _mixture(steps=200, learning_rate=0.1, batch_size=64)
_BRIEF_SYNTHESIS = _mixture(steps=80, learning_rate=0.2, batch_size=16)  # enough to find ranges of eight bits

_FAST: dict[str, Any] = {"calibration": {"provider": "none", "num_samples": 16}}
_EIGHT_BITS: dict[str, dict[str, Any]] = {
    "fast": _FAST,
    "balanced": {"calibration": {"num_samples": 64} | _BRIEF_SYNTHESIS},
    "best": {"calibration": {"num_samples": 512} | _SYNTHESIS, "quantize": {"reconstruction": {"steps": 300}}},
}
_LOW_BITS: dict[str, dict[str, Any]] = {
    "fast": _FAST,
    "balanced": {"calibration": {"num_samples": 256} | _SYNTHESIS, "quantize": {"reconstruction": {"steps": 300}}},
    # Reconstruction fits each block to its own output; what the blocks do to each other is left to fine-tuning.
    "best": {
        "calibration": {"num_samples": 512} | _SYNTHESIS,
        "quantize": {"reconstruction": {"steps": 1000}},
        "finetune": {"epochs": 100, "batch_size": 64},
    },
}
# Rounding by second moments costs a few passes over the images, and gives more than reconstruction in the same time; so
# does a little fine-tuning afterwards. Drawn images have little in them that the last layers look for, without which
# fine-tuning teaches those little; so half of them are changed, in a few steps, until they have it.
_FROM_DRAWN: dict[str, Any] = {
    "provider": "mixture",
    "params": {
        "parts": [
            {"provider": "dead_leaves"},
            {"provider": "fractal"},
            {
                "provider": "auto",
                "share": 2.0,
                "params": {
                    "prefer": "speed",
                    "initial_images": "dead_leaves",
                    "steps": 20,
                    "learning_rate": 0.02,
                    "batch_size": 32,
                },
            },
        ]
    },
}
_BY_MOMENTS: dict[str, Any] = {
    "calibration": {"num_samples": 256} | _FROM_DRAWN,
    "quantize": {"rounding": "gptq"},
}
_LOW_BITS_LARGE_IMAGES: dict[str, dict[str, Any]] = {
    "fast": _FAST,
    "balanced": _BY_MOMENTS,
    "best": _BY_MOMENTS | {"finetune": {"epochs": 10, "batch_size": 32, "augment": "crop", "lr": 5e-4}},
}


def apply_recipe(to: Statements) -> None:
    """Fill in what the recipe chooses, wherever nothing has been said or follows from what was said.

    Args:
        to: knows everything the file and the overrides say. An unknown recipe or bits that are no bits are left alone;
            they are reported when the settings are checked.
    """
    recipe, weight_bits = to.value("recipe"), to.value("quantize", "weight_bits")
    activation_bits = to.value("quantize", "activation_bits")
    low = any(isinstance(bits, int) and bits < EIGHT for bits in (weight_bits, activation_bits))
    sides = to.value("input_shape")
    large = isinstance(sides, list | tuple) and any(isinstance(side, int) and side > LARGE_SIDE for side in sides[1:])
    table = (_LOW_BITS_LARGE_IMAGES if large else _LOW_BITS) if low else _EIGHT_BITS
    if not isinstance(recipe, str) or recipe not in table:
        return
    method = [("calibration", "provider"), ("calibration", "params")]  # belong together: all of it, or nothing
    own_method = any(to.says_below(*path) for path in method)
    for path, value, _ in flatten(table[recipe], ()):
        if not (to.knows(*path) or (own_method and path[:2] in method)):
            to.imply(path, value, f"recipe '{recipe}'")
