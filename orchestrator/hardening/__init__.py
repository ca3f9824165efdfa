"""`dxray retrain`: rounds of attack and training, new faces, when to stop, and which net is in use."""
