"""`dxray sweep`: a grid of meta-parameters as trials, each trained in a process of its own, by Ray Tune."""
