"""The one place that ties decisions, disk and operators together."""
