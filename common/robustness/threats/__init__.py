"""Threat models: norm balls, spatial transformations and perceptual distances."""
