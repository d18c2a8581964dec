"""Let `python -m edgefl` do what `edgefl` does."""

from edgefl.cli import main

main()
