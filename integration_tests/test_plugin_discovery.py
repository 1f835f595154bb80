"""A provider in an installed package of a third party is found, used, and checked by its author."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dfq_plugin.synthetic_set import SyntheticSet

ROOT = Path(__file__).parent.parent
LISTED = """
import json, sys
from dfq_plugin.providers.registry import list_providers
found = {info.name: info.module for info in list_providers()}
print(json.dumps({"providers": found, "imported": "acme_noise" in sys.modules}))
"""
USED = """
import json, sys
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.registry import build_provider, list_providers
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
teacher = tiny_teacher()
provider = build_provider("acme_noise", {"contrast": 2.0})
made = provider(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(num_samples=3, seed=0))
made.save(sys.argv[1])
papers = {info.name: info.paper for info in list_providers()}
print(json.dumps({"shape": list(made.images.shape), "paper": papers["acme_noise"]}))
"""
READ = """
import json, sys
from dfq_plugin.synthetic_set import SyntheticSet
print(json.dumps(SyntheticSet.load(sys.argv[1]).provenance.settings))
"""
COMMAND = "from dfq_plugin.cli import main; main()"
CHECKED = """
from acme_noise import AcmeNoise
from dfq_plugin.testing import ProviderContract

class TestAcmeNoise(ProviderContract):
    provider = AcmeNoise(contrast=0.5)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package, without network, into a folder of its own."""
    folder = tmp_path_factory.mktemp("acme")
    source = shutil.copytree(ROOT / "integration_tests" / "plugins" / "acme_noise", folder / "source")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(folder / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return folder / "site"


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, cwd=site
    )


def answer(site: Path, script: str, *arguments: str) -> object:
    done = run(site, "-c", script, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_provider_is_listed_without_being_imported(site: Path) -> None:
    found = answer(site, LISTED)
    assert isinstance(found, dict)
    assert found["providers"]["acme_noise"] == "acme_noise"
    assert found["providers"]["noise"] == "dfq_plugin.providers.noise"
    assert found["imported"] is False


def test_dfq_providers_lists_it_beside_the_built_in_ones(site: Path) -> None:
    done = run(site, "-c", COMMAND, "providers", "--json")
    assert done.returncode == 0, done.stderr
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert listed.keys() >= {"acme_noise", "intraq", "deepinversion", "genie", "gznq", "fractal", "auto", "mixture"}
    assert listed["acme_noise"]["module"] == "acme_noise"
    assert "arXiv:2212.04780" in listed["genie"]["paper"]


@pytest.mark.parametrize(
    "calibration",
    [
        pytest.param({"provider": "acme_noise", "params": {"contrast": 3.0}}, id="alone"),
        pytest.param({"provider": "mixture", "params": {"parts": [{"provider": "acme_noise"}]}}, id="in_a_mixture"),
    ],
)
def test_dfq_generate_runs_it_from_a_config(site: Path, tmp_path: Path, calibration: dict[str, Any]) -> None:
    job = {
        "model": {"source": "python:dfq_plugin.testing:tiny_teacher"},
        "input_info": {"sample_size": [1, 3, 8, 8]},
        "compression": {"algorithm": "quantization"},
        "calibration": {"num_samples": 5, **calibration},
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.json").write_text(json.dumps(job))
    done = run(site, "-c", COMMAND, "generate", str(tmp_path / "config.json"), "--no-cache")
    assert done.returncode == 0, done.stderr
    made = SyntheticSet.load(tmp_path / "out" / "synthetic.safetensors")
    assert made.provenance.provider == calibration["provider"]
    assert tuple(made.images.shape) == (5, 3, 8, 8)
    assert torch.equal(made.images.amin(dim=3), made.images.amax(dim=3))  # every row has one value


def test_provider_is_used_by_name_and_its_set_outlives_the_package(site: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "set.safetensors")
    assert answer(site, USED, file) == {"shape": [3, 3, 8, 8], "paper": "Acme et al., Stripes, 2024"}
    assert answer(tmp_path, READ, file) == {"contrast": 2.0}


def test_provider_is_unknown_where_the_package_is_not_installed(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", "from dfq_plugin.providers.registry import get_provider; get_provider('acme_noise')")
    assert done.returncode != 0
    assert "There is no provider 'acme_noise'." in done.stderr


def test_author_checks_the_provider_with_the_contract(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_acme.py").write_text(CHECKED)
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = run(site, "-m", "pytest", *options, str(tmp_path / "test_acme.py"))
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout
