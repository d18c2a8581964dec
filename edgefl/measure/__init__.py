"""What a bundle costs on this device: memory peak, latency and counted work of every exit."""
