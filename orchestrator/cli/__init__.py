"""The command `dxray`, a file a verb. No verb imports what it needs before it runs, so help answers at once."""
