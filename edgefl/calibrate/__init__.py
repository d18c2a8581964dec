"""Temperatures and thresholds from held-out samples: from which confidence on an exit may answer."""
