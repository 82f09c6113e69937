"""What every stage needs and none is about: the run directory, the command line, the web."""
