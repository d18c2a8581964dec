"""Everything that needs torch: turns a pre-trained transformer into a bundle that a device runs without it."""
