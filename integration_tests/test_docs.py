"""README and the pages: configs load, commands exist, links lead somewhere, tables are current, the site builds."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dfq_plugin
from dfq_plugin.cli import app
from dfq_plugin.config import load_config
from dfq_plugin.config.schema import Config
from dfq_plugin.config.statements import setting_names
from dfq_plugin.providers import BUILTIN_PROVIDERS
from dfq_plugin.providers.registry import get_provider
from integration_tests.doc_blocks import COMMANDS, PAGES, ROOT, Block, anchors, blocks, commands, links, tables

LANGUAGES = {"python", "json", "jsonc", "console", "cpp", "{toctree}", "{eval-rst}"}
CONFIGS = blocks("json", "jsonc")
SAID = commands()
DFQ = {said: words[1:] for said, words in SAID.items() if words[0] == "dfq"}
OTHER = {said: words for said, words in SAID.items() if words[0] != "dfq"}
INSTALLS = "--install-completion"  # would change the shell of whoever runs the tests
NEEDS_FILE = (["config", "check"], ["config", "explain"], ["config", "convert"])  # a verb that is only mentioned
# Run for real, on a config that stands for the reader's.
QUICK = [said for said, words in DFQ.items() if words[0] in {"config", "providers"} and words not in NEEDS_FILE]
PAPERS = {
    "IntraQ": "intraq",
    "AdaDFQ": "adadfq",
    "Qimera": "qimera",
    "GDFQ": "gdfq",
    "GENIE": "genie",
    "DeepInversion and ADI": "deepinversion",
    "ZeroQ": "zeroq",
    "GZNQ": "gznq",
}


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {block.language for block in blocks()} == LANGUAGES
    assert {block.place.split(":")[0] for block in blocks() if block.excused} == {
        "deploying.md",
        "writing_a_provider.md",
    }


@pytest.mark.parametrize("block", CONFIGS, ids=[block.place for block in CONFIGS])
def test_config_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(block.text, encoding="utf-8")
    config = load_config(path)
    assert load_config(config.resolved()) == config


@pytest.mark.parametrize(("said", "words"), DFQ.items(), ids=list(DFQ))
def test_dfq_understands_the_command(said: str, words: list[str]) -> None:
    assert said
    asked = [word for word in words if word not in {"VERB", INSTALLS}]
    done = CliRunner().invoke(app, [*asked, "--help"])
    assert done.exit_code == 0, done.output
    if INSTALLS in words:
        assert INSTALLS in done.output


@pytest.mark.parametrize("said", QUICK)
def test_quick_command_does_something(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours = {"model": {"source": "python:dfq_plugin.testing:tiny_teacher"}, "input_shape": [3, 8, 8]}
    old = {
        "model": ours["model"],
        "input_info": {"sample_size": [1, 3, 8, 8]},
        "compression": {"algorithm": "quantization"},
    }
    for name, content in {"config.json": ours, "FILE": ours, "nncf2.json": old}.items():
        Path(name).write_text(json.dumps(content), encoding="utf-8")
    words = [{"NAME": "intraq", "stripes": "noise"}.get(word, word) for word in DFQ[said]]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert len(done.output) > 20


@pytest.mark.parametrize(("said", "words"), OTHER.items(), ids=list(OTHER))
def test_other_command_names_what_is_there(said: str, words: list[str]) -> None:
    program, *rest = words
    assert program in COMMANDS, said
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program == "pip":
        extras = re.search(r"\[(.*)\]", rest[-1])
        known = re.findall(r'^        "(\w+)": [A-Z\[]', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE)
        assert rest[0] == "install"
        assert extras is None or set(extras[1].split(",")) <= set(known)
    elif program in {"torchrun", "accelerate"}:  # test_shared_jobs.py starts them
        module, verb = rest[rest.index("-m") + 1 :][:2] if "-m" in rest else ("dfq_plugin", "run")
        assert (ROOT / module / "__main__.py").exists()
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0
    elif rest[0] == "-m":
        assert any((ROOT / f"{rest[1].replace('.', '/')}{end}").exists() for end in (".py", "/__main__.py"))
    else:
        assert (ROOT / rest[0].split("::")[0]).exists()


def test_benchmark_commands_have_the_options_that_the_tables_say() -> None:
    source = (ROOT / "benchmarks" / "accuracy.py").read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    known = {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "add_argument"
        and isinstance(call.args[0], ast.Constant)
    }
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES.values())
    said = re.findall(r"\| `((?:resnet20|efficientnet_lite0) --[^`]*)` \|", text)
    assert len(said) > 10
    assert {word for cell in said for word in cell.split() if word.startswith("--")} <= known


@pytest.mark.parametrize(("page", "target"), sorted(set(links())), ids=str)
def test_link_leads_somewhere(page: str, target: str) -> None:
    if target.startswith("https://"):
        return
    name, _, anchor = target.partition("#")
    path = (PAGES[page].parent / name).resolve() if name else PAGES[page]
    assert path.exists()
    assert not anchor or anchor in anchors(path)


def test_tables_are_those_that_the_code_gives() -> None:
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert [page.name for page, _ in reference.outdated()] == [], "Run python docs/reference.py."
    filled = re.findall(r"<!-- table: (\S+) -->", "".join(path.read_text(encoding="utf-8") for path in PAGES.values()))
    sections = {".".join(("config", *name.split(".")[:-1])) for name in setting_names(Config)}
    assert sorted(filled) == sorted({*sections, "providers", *(f"provider.{name}" for name in BUILTIN_PROVIDERS)})


def test_every_provider_is_in_the_tables_for_choosing() -> None:
    chosen = {
        name for row in tables("methods.md", "## What each one is for") for name in re.findall(r"`(\w+)`", row[0])
    }
    listed = {name for row in tables("README.md", "## Methods") for name in re.findall(r"`(\w+)`", row[0])}
    assert chosen == listed == BUILTIN_PROVIDERS.keys()


def test_figures_for_choosing_are_those_of_readme_and_recipes() -> None:
    sources = [*tables("README.md", "## Results"), *tables("recipes.md", "## What they give")]
    measured = tables("methods.md", "## What was measured")
    assert measured
    assert [row for row in measured if row not in sources] == []


@pytest.mark.parametrize(("heading", "provider"), PAPERS.items())
def test_names_given_for_those_of_a_paper_exist(heading: str, provider: str) -> None:
    fields = get_provider(provider).model_fields
    values = {word for field in fields.values() for word in re.findall(r"'(\w+)'", str(field.annotation))}
    known = {*fields, *values, *setting_names(Config), *BUILTIN_PROVIDERS, "mean"}
    named = [name for row in tables("from_papers.md", f"## {heading}") for name in re.findall(r"`([\w.]+)`", row[1])]
    assert named
    assert [name for name in named if name not in known] == []


def test_every_public_name_is_in_the_interface() -> None:
    page = PAGES["api.md"].read_text(encoding="utf-8")
    documented = set(re.findall(r"auto\w+:: (?:dfq_plugin\.)?(\w+)", page))
    assert set(dfq_plugin.__all__) - {"__version__"} <= documented


def test_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    command += ["-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path / "site")]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in PAGES.keys() - {"README.md"}:
        page = (tmp_path / "site" / name).with_suffix(".html").read_text(encoding="utf-8")
        assert "<h1>" in page
        loads = re.findall(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"(?:https?:)?//[^>]*>", page)
        assert [tag for tag in loads if 'rel="canonical"' not in tag] == []
    interface = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert 'id="dfq_plugin.generate"' in interface
    assert "take the set from the cache" in interface


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
