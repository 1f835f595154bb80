"""A provider in an installed package of a third party is found, used, and checked by its author."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
