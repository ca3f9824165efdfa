"""dxray: find, save and check the small change that fools a face classifier."""
