"""Small torch modules with their weights as inputs: each becomes one graph of a bundle."""
