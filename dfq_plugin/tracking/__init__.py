"""Tracking: the curves of a run as they grow, its final figures and its report, for TensorBoard, MLflow or your own."""

from dfq_plugin.tracking.trackers import Point, Tracker, Trackers, tracked

__all__ = ["Point", "Tracker", "Trackers", "tracked"]
