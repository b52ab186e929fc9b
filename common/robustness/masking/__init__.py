"""Checks for gradient masking, after an attack and by comparison of attacks."""
