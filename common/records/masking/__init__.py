"""Checks for gradient masking, from the records of a run."""
