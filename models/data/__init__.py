"""Faces as arrays: readers of folders and tables, splits, drawn faces, and the one place that decodes and encodes."""
