"""The ``dfq`` command: one verb a stage, ``dfq run`` for all of them.

Every verb takes the same config; what one stage hands to the next lies in the config's output folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfq_plugin.cli_config import config_app
from dfq_plugin.cli_options import (
    AsJson,
    ConfigFile,
    DryRun,
    NoCache,
    Output,
    Provider,
    Set,
    command,
    complete_provider,
    guarded,
    load,
    quiet_stdout,
    show,
    show_fields,
)
from dfq_plugin.errors import ConfigError

if TYPE_CHECKING:
    from dfq_plugin.config import Config

app = typer.Typer(
    help="Quantize a trained network without its data, into an ONNX file proven on integer kernels.",
    epilog="Begin with `dfq doctor`, `dfq providers` and `dfq run CONFIG --dry-run`; every verb has a --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(config_app, name="config")


def main() -> None:
    """Entry point of the ``dfq`` command."""
    app()


@command(
    app,
    "dfq run config.json",
    "dfq run config.json --dry-run",
    "dfq run config.json --provider genie --set quantize.weight_bits=4 --output runs/w4",
    "dfq run config.json --json > report.json",
)
def run(
    config: ConfigFile,
    *,
    setting: Set = None,
    provider: Provider = None,
    output: Output = None,
    as_json: AsJson = False,
    no_cache: NoCache = False,
    dry_run: DryRun = False,
) -> None:
    """Do the whole job: teacher, synthesize, quantize, finetune, export, validate, report."""
    with guarded():
        settings = load(config, setting, output, no_cache=no_cache, provider=provider)
        if dry_run:
            _tell_estimate(settings, "run", as_json)
            return
        with quiet_stdout():
            from dfq_plugin import pipeline  # noqa: PLC0415 - seconds; `dfq --help` must not wait for it
            from dfq_plugin.report import judge  # noqa: PLC0415

            report = pipeline.run(settings)
        verdict = judge(report)
        lines = [verdict.headline, *verdict.sentences, f"Report: {settings.output_dir}"]
        show(report.to_json(), as_json, "\n".join(lines))


def _stage_command(verb: str, help_text: str) -> None:
    """Add one verb that runs one stage on what lies in the output folder."""

    def stage(
        config: ConfigFile,
        *,
        setting: Set = None,
        provider: Provider = None,
        output: Output = None,
        as_json: AsJson = False,
        no_cache: NoCache = False,
        dry_run: DryRun = False,
    ) -> None:
        with guarded():
            settings = load(config, setting, output, no_cache=no_cache, provider=provider)
            if dry_run:
                _tell_estimate(settings, verb, as_json)
                return
            with quiet_stdout():
                from dfq_plugin.stages import run_stage  # noqa: PLC0415

                result = run_stage(verb, settings)
            show_fields(result, as_json)

    stage.__doc__ = help_text
    examples = (f"dfq {verb} config.json", f"dfq {verb} config.json --dry-run", f"dfq {verb} config.json -o runs/w4")
    command(app, *examples, name=verb)(stage)


for _verb, _help in {
    "generate": "Make the synthetic set and write it to the output folder.",
    "quantize": "Quantize the teacher on the synthetic set; writes student/.",
    "finetune": "Let the student learn from the teacher on the synthetic set.",
    "export": "Write the student as an integer ONNX file.",
    "validate": "Prove that the exported file runs on integer kernels and equals the reference.",
}.items():
    _stage_command(_verb, _help)


@command(app, "dfq report config.json", "dfq report --compare runs/w8 runs/w4 --output runs/compared")
def report(
    config: Annotated[Path | None, typer.Argument(help="The config file.", show_default=False)] = None,
    *,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="Two output folders or report.json files, put side by side.", show_default=False
        ),
    ] = None,
    setting: Set = None,
    provider: Provider = None,
    output: Output = None,
    as_json: AsJson = False,
    no_cache: NoCache = False,
    dry_run: DryRun = False,
) -> None:
    """Write the HTML and Markdown report again from report.json; with --compare, one page about two runs."""
    with guarded():
        if (config is None) == (compare is None):
            msg = "Give either a config file, or --compare with two output folders."
            raise ConfigError(msg)
        if compare is not None and dry_run:
            msg = "--dry-run tells what a job would take, and --compare runs none: it reads two reports. Leave out one."
            raise ConfigError(msg)
        if config is not None:
            settings = load(config, setting, output, no_cache=no_cache, provider=provider)
            if dry_run:
                _tell_estimate(settings, "report", as_json)
                return
        with quiet_stdout():
            from dfq_plugin.comparing import compare_runs  # noqa: PLC0415
            from dfq_plugin.stages import run_stage  # noqa: PLC0415

            if compare is not None:
                result: dict[str, Any] = dict(compare_runs(*compare, output or Path()))
            else:
                result = run_stage("report", settings)
        show_fields(result, as_json)


def _tell_estimate(settings: Config, verb: str, as_json: bool) -> None:
    with quiet_stdout():
        from dfq_plugin.estimate import estimate, format_estimate  # noqa: PLC0415

        expected = estimate(settings, verb)
    show(expected.to_json(), as_json, format_estimate(expected))


ProviderName = Annotated[
    str | None,
    typer.Argument(help="Show the settings of this one.", show_default=False, autocompletion=complete_provider),
]


@command(app, "dfq providers", "dfq providers intraq", "dfq providers --json")
def providers(name: ProviderName = None, as_json: AsJson = False) -> None:
    """List the synthetic-data providers, or the settings of one."""
    with guarded():
        from dataclasses import asdict  # noqa: PLC0415

        from dfq_plugin.providers.registry import describe_provider, list_providers  # noqa: PLC0415

        if name is not None:
            described = describe_provider(name)
            show(described.to_json(), as_json, described.to_text())
            return
        listed = [asdict(info) for info in list_providers()]
        lines = [f"{info['name']:<14} {info['paper']}  [needs: {info['needs']}]" for info in listed]
        show(listed, as_json, "\n".join(lines))


Fix = Annotated[
    bool, typer.Option("--fix", help="First clear what a dead build left, and build NNCF's kernels where missing.")
]


@command(app, "dfq doctor", "dfq doctor --fix", "dfq doctor --json")
def doctor(as_json: AsJson = False, fix: Fix = False) -> None:
    """Say what this machine has: versions, compiler, CPU instructions, GPU, NNCF's kernels, and what is missing."""
    with guarded():
        from dfq_plugin import doctor as consulted  # noqa: PLC0415

        with quiet_stdout():
            done = consulted.fix() if fix else []
        diagnosis = consulted.examine()
        text = "\n".join([*done, *([""] if done else []), consulted.format_diagnosis(diagnosis)])
        show({**diagnosis.to_json(), "fixed": done}, as_json, text)
