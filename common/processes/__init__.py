"""Processes of a command: signals, parents and children, and the ranks of one run. Nothing here imports torch."""
