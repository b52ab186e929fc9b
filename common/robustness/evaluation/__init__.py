"""Evaluators: classifier and batch to records."""
