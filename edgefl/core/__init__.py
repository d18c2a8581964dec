"""Plain values that travel between two other folders; they import numpy, msgspec, psutil and `edgefl.errors` only."""
