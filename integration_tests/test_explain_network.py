"""``dfq config explain --network`` lists what each scope of an NNCF 2.x file stands for in the network."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from dfq_plugin.cli import app
from integration_tests.networks import SHAPE


def test_scopes_are_looked_up_in_the_network(tmp_path: Path) -> None:
    path = tmp_path / "nncf2.json"
    compression = {
        "algorithm": "quantization",
        "ignored_scopes": ["{re}NNCFConv2d\\[conv1\\]", "ResidualNetwork/NNCFLinear[fc]/linear_0", "{re}nowhere"],
        "scope_overrides": {"weights": {"ResidualNetwork/NNCFConv2d[conv2]/conv2d_0": {"bits": 4}}},
        "initializer": {
            "precision": {
                "type": "manual",
                "bitwidth_per_scope": [[4, "ResidualNetwork/NNCFBatchNorm2d[norm1]/batch_norm_0|OUTPUT"]],
            }
        },
    }
    document = {
        "model": {"source": "python:integration_tests.networks:residual"},
        "input_info": {"sample_size": [1, *SHAPE]},
        "compression": compression,
    }
    path.write_text(json.dumps(document))
    arguments = ["config", "explain", str(path), "--network"]
    for_people, for_programs = (CliRunner().invoke(app, [*arguments, *more]) for more in ([], ["--json"]))
    assert for_people.exit_code == for_programs.exit_code == 0, for_people.output
    scopes = json.loads(for_programs.stdout)["scopes"]
    assert list(scopes.values()) == [
        ["fc/linear/0"],
        ["conv1/conv2d/0"],  # a pattern with the class that only NNCF 2.x wrote
        [],
        ["conv2/conv2d/0"],
        ["conv1/conv2d/0"],  # what the BatchNorm was folded into
    ]
    rows = [line.split()[-2:] for line in for_people.stdout.splitlines() if "nowhere" in line]
    assert ["0", "nothing"] in rows
