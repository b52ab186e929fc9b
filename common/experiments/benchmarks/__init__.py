"""Benchmarks: what purification, attacks and certification cost beside the bare networks that they run."""
