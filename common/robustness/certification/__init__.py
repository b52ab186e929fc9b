"""Certifiers by randomised smoothing, and their preconditions."""
