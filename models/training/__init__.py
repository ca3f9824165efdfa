"""Training a net in one process: steps, augmentation, auxiliary labels, its cost, and what an unfinished one keeps."""
