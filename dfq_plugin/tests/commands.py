"""The ``dfq`` command as tests call it."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from dfq_plugin.cli import app

VERBS = ["generate", "quantize", "finetune", "export", "validate", "report"]
CONTENT = """{
  // comments are allowed
  "model": {"source": "timm:tiny"},
  "input_shape": [3, 8, 8],
  "output_dir": "runs/tiny"
}"""


def dfq(*arguments: object) -> Result:
    """Call the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_config(folder: Path) -> Path:
    """A config that loads."""
    path = folder / "config.json"
    path.write_text(CONTENT)
    return path
