"""All that knows Ray: sweep, batch attack, the Arrow store, reports and the command line."""
