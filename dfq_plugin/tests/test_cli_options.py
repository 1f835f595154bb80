"""What all verbs have in common: help with examples, JSON, completion."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from dfq_plugin.cli import app
from dfq_plugin.tests.commands import VERBS, dfq

CONFIG = ["config check", "config explain", "config schema", "config convert"]


class TestHelp:
    @pytest.fixture(params=["run", *VERBS, "providers", "doctor", *CONFIG])
    def verb(self, request: pytest.FixtureRequest) -> list[str]:
        return str(request.param).split()

    def test_shows_examples_that_can_be_typed(self, verb: list[str]) -> None:
        text = dfq(*verb, "--help").stdout
        examples = [line.strip() for line in text.splitlines() if line.strip().startswith(f"dfq {' '.join(verb)}")]
        assert "Examples:" in text
        assert examples
        for example in examples:  # a word that is no option of the verb is refused before the help is shown
            words = example.split(" > ")[0].split()[1:]
            assert dfq(*words, "--help").exit_code == 0, example

    def test_dry_run_is_offered_by_every_verb_that_works(self) -> None:
        assert all("--dry-run" in dfq(verb, "--help").stdout for verb in ("run", *VERBS))

    def test_json_is_offered_everywhere(self, verb: list[str]) -> None:
        assert "--json" in dfq(*verb, "--help").stdout


class TestCompletion:
    def complete(self, words: str) -> str:
        variables = {"_DFQ_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
        return CliRunner().invoke(app, [], prog_name="dfq", env=variables).stdout

    def test_is_offered(self) -> None:
        text = dfq("--help").stdout
        assert "--install-completion" in text
        assert "--show-completion" in text

    def test_knows_the_verbs(self) -> None:
        assert "generate" in self.complete("dfq gen")

    @pytest.mark.parametrize("words", ["dfq run c.json --provider q", "dfq providers q"])
    def test_knows_the_providers(self, words: str) -> None:
        assert "qimera" in self.complete(words)
        assert "intraq" not in self.complete(words)

    def test_knows_the_settings(self) -> None:
        found = self.complete("dfq run c.json --set quantize.weight_b")
        assert "quantize.weight_bits=" in found
        assert "activation_bits" not in found
