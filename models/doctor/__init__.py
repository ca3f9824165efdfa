"""What is wrong with a training or its data: the evidence, and the findings that follow from it."""
