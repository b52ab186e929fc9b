"""The commands beside Lightning's own, and the progress bar."""
