"""The config: one JSON file that names the network, the images, the bits, and everything else a job needs."""

from __future__ import annotations

from dfq_plugin.config.export_settings import ExportSettings, ValidateSettings
from dfq_plugin.config.finetune_settings import FinetuneSettings
from dfq_plugin.config.loading import convert, explain, explanation, json_schema, load_config, read_section
from dfq_plugin.config.quantize_settings import IgnoredScopes, QuantizeSettings
from dfq_plugin.config.schema import CalibrationSettings, Config, ModelSettings, Note
from dfq_plugin.config.scopes import legacy_name, match_scopes, split_quantizer_scope, translate_scope
from dfq_plugin.config.tracking_settings import TrackingSettings

__all__ = [
    "CalibrationSettings",
    "Config",
    "ExportSettings",
    "FinetuneSettings",
    "IgnoredScopes",
    "ModelSettings",
    "Note",
    "QuantizeSettings",
    "TrackingSettings",
    "ValidateSettings",
    "convert",
    "explain",
    "explanation",
    "json_schema",
    "legacy_name",
    "load_config",
    "match_scopes",
    "read_section",
    "split_quantizer_scope",
    "translate_scope",
]
