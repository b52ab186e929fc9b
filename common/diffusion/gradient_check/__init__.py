"""Checks of a purifier's gradient."""
