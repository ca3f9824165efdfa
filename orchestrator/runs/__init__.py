"""A run on disk or in a bucket: whole files or none, leases, rows and their filters."""
