"""`dxray attack`: inputs, listed and cut into shards, which workers attack; a row and three images for each."""
