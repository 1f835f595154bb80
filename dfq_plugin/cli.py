"""The ``dfq`` command: one verb a stage, ``dfq run`` for all of them.

Every verb takes the same config; what one stage hands to the next lies in the config's output folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfq_plugin.errors import ConfigError, DFQError

if TYPE_CHECKING:
    from dfq_plugin.config import Config

INTERRUPTED = 130

app = typer.Typer(
    help="Quantize a trained network without its data, into an ONNX file proven on integer kernels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
config_app = typer.Typer(help="Check, explain and convert config files.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigFile = Annotated[Path, typer.Argument(help="The config file (JSON, comments allowed).", show_default=False)]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override one setting; repeatable.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Output folder, instead of the config's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, all else on stderr.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Make the synthetic set anew and keep nothing.")]


def main() -> None:
    """Entry point of the ``dfq`` command."""
    app()


@app.command()
def run(
    config: ConfigFile, setting: Set = None, output: Output = None, as_json: AsJson = False, no_cache: NoCache = False
) -> None:
    """Do the whole job: teacher, synthesize, quantize, finetune, export, validate, report."""
    with _guarded():
        settings = _load(config, setting, output, no_cache)
        with _quiet_stdout():
            from dfq_plugin import pipeline  # noqa: PLC0415 - seconds; `dfq --help` must not wait for it
            from dfq_plugin.report import judge  # noqa: PLC0415

            report = pipeline.run(settings)
        verdict = judge(report)
        lines = [verdict.headline, *verdict.sentences, f"Report: {settings.output_dir}"]
        _print(report.to_json(), as_json, "\n".join(lines))


def _stage_command(verb: str, help_text: str) -> None:
    """Add one verb that runs one stage on what lies in the output folder."""

    def command(
        config: ConfigFile,
        setting: Set = None,
        output: Output = None,
        as_json: AsJson = False,
        no_cache: NoCache = False,
    ) -> None:
        with _guarded():
            settings = _load(config, setting, output, no_cache)
            with _quiet_stdout():
                from dfq_plugin.stages import run_stage  # noqa: PLC0415

                result = run_stage(verb, settings)
            _print(result, as_json, "\n".join(f"{key}: {value}" for key, value in result.items()))

    app.command(verb, help=help_text)(command)


for _verb, _help in {
    "generate": "Make the synthetic set and write it to the output folder.",
    "quantize": "Quantize the teacher on the synthetic set; writes student/.",
    "finetune": "Let the student learn from the teacher on the synthetic set.",
    "export": "Write the student as an integer ONNX file.",
    "validate": "Prove that the exported file runs on integer kernels and equals the reference.",
}.items():
    _stage_command(_verb, _help)


@app.command()
def report(  # noqa: PLR0917 - one argument an option
    config: Annotated[Path | None, typer.Argument(help="The config file.", show_default=False)] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="Two output folders or report.json files, put side by side.", show_default=False
        ),
    ] = None,
    setting: Set = None,
    output: Output = None,
    as_json: AsJson = False,
    no_cache: NoCache = False,
) -> None:
    """Write the HTML and Markdown report again from report.json; with --compare, one page about two runs."""
    with _guarded():
        if (config is None) == (compare is None):
            msg = "Give either a config file, or --compare with two output folders."
            raise ConfigError(msg)
        if config is not None:
            settings = _load(config, setting, output, no_cache)
        with _quiet_stdout():
            from dfq_plugin.comparing import compare_runs  # noqa: PLC0415
            from dfq_plugin.stages import STAGES, Job  # noqa: PLC0415

            if compare is not None:
                result: dict[str, Any] = dict(compare_runs(*compare, output or Path()))
            else:
                result = STAGES["report"](Job(settings))
        _print(result, as_json, "\n".join(f"{key}: {value}" for key, value in result.items()))


@app.command()
def providers(as_json: AsJson = False) -> None:
    """List the synthetic-data providers."""
    with _guarded():
        from dataclasses import asdict  # noqa: PLC0415

        from dfq_plugin.providers.registry import list_providers  # noqa: PLC0415

        listed = [asdict(info) for info in list_providers()]
        lines = [f"{info['name']:<14} {info['paper']}  [needs: {info['needs']}]" for info in listed]
        _print(listed, as_json, "\n".join(lines))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine has: versions, compiler, CPU instructions, NNCF's extension."""
    with _guarded():
        from dfq_plugin.doctor import examine, format_diagnosis  # noqa: PLC0415

        diagnosis = examine()
        _print(diagnosis.to_json(), as_json, format_diagnosis(diagnosis))


@config_app.command()
def check(config: ConfigFile, setting: Set = None) -> None:
    """Say whether a config is valid; problems are listed with their place in the file."""
    with _guarded():
        settings = _load(config, setting, None, no_cache=False)
        print(f"{config}: valid ({len(settings.notes)} notes; see `dfq config explain`).")


@config_app.command()
def explain(config: ConfigFile, setting: Set = None) -> None:
    """Show every setting, its value and where it came from."""
    with _guarded():
        from dfq_plugin.config import explain as explain_config  # noqa: PLC0415

        print(explain_config(_load(config, setting, None, no_cache=False)))


@config_app.command()
def schema() -> None:
    """Print the JSON schema of the config file, for editors."""
    with _guarded():
        from dfq_plugin.config import json_schema  # noqa: PLC0415

        print(json.dumps(json_schema(), indent=2))


@config_app.command()
def convert(config: ConfigFile) -> None:
    """Print an NNCF 2.x config in this tool's own form."""
    with _guarded():
        from dfq_plugin.config import convert as convert_config  # noqa: PLC0415

        print(json.dumps(convert_config(config), indent=2))


def _load(path: Path, overrides: list[str] | None, output: Path | None, no_cache: bool) -> Config:
    from dfq_plugin.config import load_config  # noqa: PLC0415

    extra = [] if output is None else [f"output_dir={json.dumps(str(output))}"]
    extra += ["calibration.cache=false"] if no_cache else []
    return load_config(path, [*(overrides or []), *extra])


@contextmanager
def _guarded() -> Iterator[None]:
    """Turn an error into one message on stderr and its exit code."""
    try:
        yield
    except DFQError as error:
        print(f"dfq: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    except (OSError, MemoryError) as error:  # of a place that says no more about it
        print(f"dfq: {str(error) or 'memory ran out.'}", file=sys.stderr)
        raise typer.Exit(DFQError.exit_code) from error
    except KeyboardInterrupt as error:
        print("dfq: interrupted. Finished batches of images are kept; the next run goes on from them.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send everything that libraries print to stderr: stdout belongs to the result."""
    with redirect_stdout(sys.stderr):
        yield


def _print(result: Any, as_json: bool, text: str) -> None:  # noqa: ANN401 - JSON
    print(json.dumps(result, indent=2) if as_json else text)
