"""Files that commands write: replaced as a whole, tried before the work begins, locked while they are written."""
