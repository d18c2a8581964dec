"""The main job on one machine: real server, real client processes, scikit-learn's handwritten digits."""
