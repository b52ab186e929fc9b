"""Threat models: the images that an attacker may return."""
