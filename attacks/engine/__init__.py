"""What every attack is built on: queries of a net, the batched search, the 8-bit lattice, norms, masks and scoring."""
