"""Classifiers as files: dxray's own checkpoints, those that others made, and the stand-alone check of an image.

Nothing is ever unpickled.
"""
