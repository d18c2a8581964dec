"""The torch models edgefl exports: a frozen timm backbone and the adapter trained beside it."""
