"""A package of a third party that adds one provider."""

from __future__ import annotations

from setuptools import setup

setup(
    name="acme-noise",
    version="1.2.3",
    packages=["acme_noise"],
    install_requires=["dfq-plugin"],
    entry_points={"dfq_plugin.providers": ["acme_noise = acme_noise:AcmeNoise"]},
)
