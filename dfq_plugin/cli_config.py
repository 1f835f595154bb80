"""The verbs of ``dfq config``: check, explain, schema, convert."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dfq_plugin.cli_options import AsJson, ConfigFile, Set, command, guarded, load, quiet_stdout, show
from dfq_plugin.errors import ConfigError

config_app = typer.Typer(help="Check, explain and convert config files.", no_args_is_help=True, rich_markup_mode=None)

InNetwork = Annotated[
    bool, typer.Option("--network", help="Load the network, and list the operations that each scope stands for.")
]


@command(config_app, "dfq config check config.json", "dfq config check nncf2.json --json")
def check(config: ConfigFile, setting: Set = None, as_json: AsJson = False) -> None:
    """Say whether a config is valid; problems are listed with their place in the file."""
    with guarded():
        try:
            settings = load(config, setting)
        except ConfigError as error:
            if as_json:
                print(json.dumps({"valid": False, "problems": list(error.problems), "notes": []}, indent=2))
            raise
        notes = [note.model_dump() for note in settings.notes]
        text = f"{config}: valid ({len(notes)} notes; see `dfq config explain`)."
        show({"valid": True, "problems": [], "notes": notes}, as_json, text)


@command(
    config_app,
    "dfq config explain config.json",
    "dfq config explain nncf2.json --network",
    "dfq config explain config.json --set quantize.weight_bits=4 --json",
)
def explain(config: ConfigFile, setting: Set = None, as_json: AsJson = False, network: InNetwork = False) -> None:
    """Show every setting, its value and where it came from, and what became of each NNCF 2.x field."""
    with guarded():
        from dfq_plugin.config import explain as explain_config  # noqa: PLC0415
        from dfq_plugin.config import explanation  # noqa: PLC0415

        settings = load(config, setting)
        scopes = None
        if network:
            with quiet_stdout():
                from dfq_plugin.stages import operations_of_scopes  # noqa: PLC0415

                scopes = operations_of_scopes(settings)
        show(explanation(settings, scopes), as_json, explain_config(settings, scopes))


@command(config_app, "dfq config schema > dfq.schema.json")
def schema(as_json: AsJson = False) -> None:  # noqa: ARG001 - it is JSON anyway
    """Print the JSON schema of the config file, for editors."""
    with guarded():
        from dfq_plugin.config import json_schema  # noqa: PLC0415

        print(json.dumps(json_schema(), indent=2))


@command(config_app, "dfq config convert nncf2.json > config.json")
def convert(config: ConfigFile, as_json: AsJson = False) -> None:  # noqa: ARG001 - it is JSON anyway
    """Print an NNCF 2.x config in this tool's own form."""
    with guarded():
        from dfq_plugin.config import convert as convert_config  # noqa: PLC0415

        print(json.dumps(convert_config(config), indent=2))
