"""Checks at the borders: settings of constructors, images and labels, outputs of parts from elsewhere."""
