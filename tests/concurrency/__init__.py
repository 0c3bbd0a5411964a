"""Verbs at the same time: a model of the lifecycle, a judge of what callers were answered, and storms of callers."""
