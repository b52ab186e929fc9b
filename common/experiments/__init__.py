"""Studies, staged runs and their rehearsal."""
