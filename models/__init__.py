"""Classifiers and what they are made of: nets, data, training, victims, diagnosis. Nothing here needs Ray."""
