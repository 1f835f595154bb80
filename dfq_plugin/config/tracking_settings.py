"""The settings of tracking."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dfq_plugin.config.base import Settings

Place = Annotated[str, Field(min_length=1)]


class TrackingSettings(Settings):
    """Where curves, final figures and the report are sent while the job runs."""

    tensorboard: Place | None = Field(
        default=None, description="Folder for TensorBoard; the run is called as the output folder."
    )
    mlflow: Place | None = Field(
        default=None,
        description="MLflow's tracking URI: a server (`http://...`), a database (`sqlite:///...`) or a folder.",
    )
    experiment: Place = Field(default="dfq_plugin", description="MLflow's experiment, made when there is none.")
