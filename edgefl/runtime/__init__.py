"""Run a bundle's programs on ONNX Runtime: anytime inference, loss and gradient, optimizer; never with torch."""
