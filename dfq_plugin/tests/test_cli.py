"""The ``dfq`` command: what goes to which stream, and which exit code says what."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dfq_plugin import doctor, estimate, pipeline, stages
from dfq_plugin.cli import main
from dfq_plugin.config import Config
from dfq_plugin.errors import (
    ConfigError,
    DFQError,
    ExportError,
    InputError,
    ProviderContractError,
    UnsupportedModelError,
    ValidationError,
)
from dfq_plugin.estimate import Estimate, StageEstimate
from dfq_plugin.report import Report
from dfq_plugin.tests.commands import VERBS, dfq, write_config
from dfq_plugin.tests.report.samples import full_report


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_config(tmp_path)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Replace the pipeline by one that prints and keeps the config it was given."""
    given: list[Config] = []

    def run(config: Config) -> Report:
        sys.stdout.write("a library prints")
        given.append(config)
        return full_report()

    monkeypatch.setattr(pipeline, "run", run)
    return given


@pytest.mark.parametrize("verb", ["run", *VERBS, "providers", "doctor", "config"])
def test_help_names_every_verb_and_every_verb_has_help(verb: str) -> None:
    assert verb in dfq("--help").stdout
    own = dfq(verb, "--help")
    assert own.exit_code == 0
    assert own.stdout.strip()


def test_no_verb_shows_the_help() -> None:
    assert "Usage:" in dfq().output


def test_unknown_verb_is_bad_input() -> None:
    result = dfq("quantise")
    assert result.exit_code == 2
    assert "No such command 'quantise'" in result.output


class TestRun:
    def test_result_is_told_in_sentences(self, file: Path, seen: list[Config]) -> None:
        result = dfq("run", file)
        assert result.exit_code == 0
        assert result.stdout.splitlines()[-1] == "Report: runs/tiny"
        assert "12,345,678 codes" in result.stdout
        assert len(seen) == 1

    def test_json_is_all_there_is_on_stdout(self, file: Path, seen: list[Config]) -> None:
        result = dfq("run", file, "--json")
        assert json.loads(result.stdout) == full_report().to_json()
        assert "a library prints" in result.stderr
        assert len(seen) == 1

    def test_settings_win_over_the_file_and_can_be_repeated(self, file: Path, seen: list[Config]) -> None:
        assert dfq("run", file, "--set", "quantize.weight_bits=4", "--set", "calibration.seed=7").exit_code == 0
        assert (seen[0].quantize.weight_bits, seen[0].calibration.seed) == (4, 7)

    @pytest.mark.parametrize("option", ["--output", "-o"])
    @pytest.mark.parametrize("folder", ['else where/"x"=1, {a}', "2026"])
    def test_output_folder_wins_over_the_file_and_over_set(
        self, option: str, folder: str, file: Path, seen: list[Config]
    ) -> None:
        assert dfq("run", file, "--set", "output_dir=third", option, folder).exit_code == 0
        assert seen[0].output_dir == folder

    def test_cache_is_used_unless_told_otherwise(self, file: Path, seen: list[Config]) -> None:
        dfq("run", file)
        dfq("run", file, "--no-cache")
        assert [config.calibration.cache for config in seen] == [True, False]

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ConfigError, 2),
            (InputError, 2),
            (ProviderContractError, 2),
            (DFQError, 2),
            (UnsupportedModelError, 3),
            (ExportError, 3),
            (ValidationError, 4),
        ],
    )
    def test_error_is_one_message_on_stderr_and_its_exit_code(
        self, error: type[DFQError], code: int, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_config: Config) -> Report:
            msg = "something is wrong; do this."
            raise error(msg)

        monkeypatch.setattr(pipeline, "run", fail)
        result = dfq("run", file, "--json")
        assert result.exit_code == code
        assert result.stderr == "dfq: something is wrong; do this.\n"
        assert result.stdout == ""

    def test_interrupt_says_that_work_is_kept(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(_config: Config) -> Report:
            raise KeyboardInterrupt

        monkeypatch.setattr(pipeline, "run", interrupt)
        result = dfq("run", file)
        assert result.exit_code == 130
        assert result.stderr.startswith("dfq: interrupted.")
        assert result.stdout == ""

    def test_error_that_nobody_meant_keeps_its_traceback(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_config: Config) -> Report:
            msg = "a bug"
            raise ZeroDivisionError(msg)

        monkeypatch.setattr(pipeline, "run", fail)
        assert isinstance(dfq("run", file).exception, ZeroDivisionError)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--set", "quantize.weight_bits=9"], "weight_bits"),
            (["--set", "nothing"], "expected 'section.setting=value'"),
            (["--set", "quantise.weight_bits=4"], "unknown key"),
        ],
    )
    def test_setting_that_is_wrong_is_named(
        self, arguments: list[str], message: str, file: Path, seen: list[Config]
    ) -> None:
        result = dfq("run", file, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert not seen

    def test_file_that_is_missing_is_named(self, tmp_path: Path) -> None:
        result = dfq("run", tmp_path / "nowhere.json")
        assert result.exit_code == 2
        assert f"dfq: {tmp_path / 'nowhere.json'}: no such file" in result.stderr


class TestStages:
    @pytest.fixture
    def jobs(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, stages.Job]]:
        done: list[tuple[str, stages.Job]] = []

        def stage(verb: str) -> Any:
            def run(job: stages.Job) -> dict[str, Any]:
                sys.stdout.write("a library prints")
                done.append((verb, job))
                return {"what": verb, "count": 3}

            return run

        for verb in VERBS:
            monkeypatch.setitem(stages.STAGES, verb, stage(verb))
        monkeypatch.chdir(tmp_path)
        return done

    def test_every_stage_has_a_verb(self) -> None:
        assert list(stages.STAGES) == VERBS

    @pytest.mark.parametrize("verb", VERBS)
    def test_verb_runs_its_stage_on_the_config(self, verb: str, file: Path, jobs: list[tuple[str, stages.Job]]) -> None:
        result = dfq(verb, file, "--set", "calibration.seed=5", "-o", "else", "--no-cache")
        assert (result.exit_code, result.stdout) == (0, f"what: {verb}\ncount: 3\n")
        ((ran, job),) = jobs
        assert ran == verb
        assert (job.config.calibration.seed, job.config.calibration.cache) == (5, False)
        assert job.output == Path("else")
        assert job.output.is_dir()

    def test_json_is_all_there_is_on_stdout(self, file: Path, jobs: list[tuple[str, stages.Job]]) -> None:
        result = dfq("export", file, "--json")
        assert json.loads(result.stdout) == {"what": "export", "count": 3}
        assert len(jobs) == 1


class TestCompare:
    @pytest.fixture
    def runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
        monkeypatch.setattr("dfq_plugin.report.html.in_both_looks", lambda _draw: {"wide": "", "narrow": ""})
        monkeypatch.setattr("dfq_plugin.report.pages.in_both_looks", lambda _draw: {"wide": "", "narrow": ""})
        monkeypatch.chdir(tmp_path)
        reports = full_report(), full_report(accuracy={"teacher": 75.0, "student": 70.5, "onnx": 71.0})
        for name, report in zip(("a", "b"), reports, strict=True):
            (tmp_path / name).mkdir()
            (tmp_path / name / "report.json").write_text(json.dumps(report.to_json()))
        return Path("a"), Path("b")

    @pytest.mark.parametrize("output", [(), ("-o", "both")], ids=["here", "there"])
    def test_two_runs_are_put_side_by_side(self, output: tuple[str, ...], runs: tuple[Path, Path]) -> None:
        result = dfq("report", "--compare", *runs, *output)
        folder = Path(output[1]) if output else Path()
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines() == [
            f"comparison: {folder / 'comparison.html'}",
            f"markdown: {folder / 'comparison.md'}",
            "differences: 1 difference: B is better in 1, worse in 0, other in 0.",
        ]
        assert (folder / "comparison.html").exists()

    def test_missing_report_is_bad_input(self, runs: tuple[Path, Path]) -> None:
        result = dfq("report", "--compare", runs[0], "nowhere", "--json")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "nowhere does not exist; give the output folder" in result.stderr

    def test_dry_run_of_a_comparison_is_refused_and_writes_nothing(self, runs: tuple[Path, Path]) -> None:
        result = dfq("report", "--compare", *runs, "--dry-run", "-o", "both")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--dry-run tells what a job would take, and --compare runs none" in result.stderr
        assert not Path("both").exists()

    @pytest.mark.parametrize("arguments", [(), ("config.json", "--compare", "a", "b")], ids=["neither", "both"])
    def test_config_and_compare_exclude_each_other(self, arguments: tuple[str, ...]) -> None:
        result = dfq("report", *arguments)
        assert result.exit_code == 2
        assert "Give either a config file, or --compare with two output folders." in result.stderr


class TestDryRun:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, str]]:
        """Replace the trials by an answer."""
        asked: list[tuple[Config, str]] = []

        def answer(config: Config, verb: str) -> Estimate:
            sys.stdout.write("a library prints")
            asked.append((config, verb))
            return Estimate(verb, (StageEstimate("teacher", "a network", 61.0),), 61.0, 2**30, {"out": True}, 5.0)

        monkeypatch.setattr(estimate, "estimate", answer)
        return asked

    @pytest.mark.parametrize("verb", ["run", *VERBS])
    def test_tells_and_does_nothing(
        self, verb: str, file: Path, seen: list[Config], asked: list[tuple[Config, str]], tmp_path: Path
    ) -> None:
        result = dfq(verb, file, "--dry-run", "-o", tmp_path / "out", "--provider", "noise")
        assert result.exit_code == 0
        assert result.stdout.startswith(f"`dfq {verb}` would take about 1 min 1 s and 1.0 GiB of memory. Nothing was")
        assert "a network" in result.stdout
        assert "replaces out" in result.stdout
        assert [(config.calibration.provider, asked_verb) for config, asked_verb in asked] == [("noise", verb)]
        assert (seen, (tmp_path / "out").exists()) == ([], False)

    def test_json_is_all_there_is_on_stdout(self, file: Path, asked: list[tuple[Config, str]]) -> None:
        told = json.loads(dfq("run", file, "--dry-run", "--json").stdout)
        assert (told["dry_run"], told["seconds"], told["peak_memory_bytes"]) == (True, 61.0, 2**30)
        assert told["stages"][0]["stage"] == "teacher"
        assert len(asked) == 1


def test_providers_are_listed_for_people_and_for_programs() -> None:
    for_people, for_programs = dfq("providers"), dfq("providers", "--json")
    listed = json.loads(for_programs.stdout)
    assert {"noise", "zeroq", "intraq", "folder"} <= {entry["name"] for entry in listed}
    assert len(for_people.stdout.splitlines()) == len(listed)
    for entry in listed:
        assert entry["name"] in for_people.stdout
        assert entry["needs"] in for_people.stdout


def test_settings_of_one_provider_are_listed_with_their_defaults_and_sources() -> None:
    for_people, for_programs = (
        dfq("providers", "deepinversion"),
        json.loads(dfq("providers", "folder", "--json").stdout),
    )
    assert "steps = 3000" in for_people.stdout  # of the preset that holds when nothing is said
    assert "[released code]" in for_people.stdout
    settings = {entry["name"]: entry["default"] for entry in for_programs["settings"]}
    assert settings == {"path": "required", "resize": None, "label_pattern": None}
    assert "Did you mean 'intraq'?" in dfq("providers", "intraqq").stderr


def test_doctor_tells_what_it_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "fix", lambda: ["Removed a lock."])
    assert dfq("doctor", "--fix").stdout.startswith("Removed a lock.\n\npython")
    assert json.loads(dfq("doctor", "--fix", "--json").stdout)["fixed"] == ["Removed a lock."]
    assert json.loads(dfq("doctor", "--json").stdout)["fixed"] == []


def test_doctor_speaks_to_people_and_to_programs() -> None:
    for_people, for_programs = dfq("doctor"), dfq("doctor", "--json")
    assert (for_people.exit_code, for_programs.exit_code) == (0, 0)
    assert "torch" in json.loads(for_programs.stdout)["versions"]
    assert "torch" in for_people.stdout


def test_console_command_calls_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dfq", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
