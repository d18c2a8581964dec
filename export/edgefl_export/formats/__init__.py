"""One module for each runtime's file format."""
