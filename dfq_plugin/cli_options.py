"""What the verbs of the ``dfq`` command share: their options, their help, and how results and errors leave them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dfq_plugin.errors import DFQError
from dfq_plugin.processes import speaks

if TYPE_CHECKING:
    from dfq_plugin.config import Config

Function = TypeVar("Function", bound=Callable[..., None])

INTERRUPTED = 130
KEPT = (
    "Finished batches of images (without --no-cache), reconstructed blocks and epochs are kept; the same command goes "
    "on from them."
)


def complete_provider(incomplete: str) -> list[str]:
    """Names of providers that begin so, for the shell; imports no provider."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - only for completion

    from dfq_plugin.providers import BUILTIN_PROVIDERS  # noqa: PLC0415

    names = {*BUILTIN_PROVIDERS, *(point.name for point in entry_points(group="dfq_plugin.providers"))}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_setting(incomplete: str) -> list[str]:
    """Names of settings that begin so, each with its "=", for the shell."""
    from dfq_plugin.config.schema import Config  # noqa: PLC0415
    from dfq_plugin.config.statements import setting_names  # noqa: PLC0415

    return [f"{name}=" for name in setting_names(Config) if name.startswith(incomplete)]


ConfigFile = Annotated[Path, typer.Argument(help="The config file (JSON, comments allowed).", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Override one setting; repeatable.", autocompletion=complete_setting),
]
Provider = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Short for --set calibration.provider=NAME.", autocompletion=complete_provider),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Output folder, instead of the config's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, all else on stderr.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Make the synthetic set anew and keep nothing.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Do nothing; tell what would be done, and the time and memory it would take here."),
]


def command(group: typer.Typer, *examples: str, name: str | None = None) -> Callable[[Function], Function]:
    """Add a function to a group as a verb; its docstring is the help, with the examples below it."""

    def add(function: Function) -> Function:
        shown = "".join(f"\n  {example}" for example in examples)
        group.command(name, help=f"{function.__doc__}\n\n\b\nExamples:{shown}" if examples else function.__doc__)(
            function
        )
        return function

    return add


def load(
    path: Path,
    overrides: list[str] | None,
    output: Path | None = None,
    *,
    no_cache: bool = False,
    provider: str | None = None,
) -> Config:
    """Read a config file with what the options say about it."""
    from dfq_plugin.config import load_config  # noqa: PLC0415

    extra = [] if output is None else [f"output_dir={json.dumps(str(output))}"]
    extra += [] if provider is None else [f"calibration.provider={json.dumps(provider)}"]
    extra += ["calibration.cache=false"] if no_cache else []
    return load_config(path, [*(overrides or []), *extra])


@contextmanager
def guarded() -> Iterator[None]:
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
        print(f"dfq: interrupted. {KEPT}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send everything that libraries print to stderr: stdout belongs to the result."""
    with redirect_stdout(sys.stderr):
        yield


def show(result: Any, as_json: bool, text: str) -> None:  # noqa: ANN401 - JSON
    """Print a result for programs, or its text for people; of several processes of a job only the main one does."""
    if speaks():
        print(json.dumps(result, indent=2) if as_json else text)


def show_fields(result: Mapping[str, Any], as_json: bool) -> None:
    """Print what a stage gave, a line a field for people."""
    show(result, as_json, "\n".join(f"{key}: {value}" for key, value in result.items()))
