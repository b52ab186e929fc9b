"""Checks of a classifier's gradient, run before an attack."""
