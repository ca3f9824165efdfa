"""All that knows Ray, files of runs, and the command line. What every room here says and raises lies beside it."""
