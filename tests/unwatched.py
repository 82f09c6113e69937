"""Imported first by the process that stages are forked from: its garbage collector leaves what it imports alone."""

import gc

gc.disable()
