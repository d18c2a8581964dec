"""What an answer costs on this device, and how sure an exit must be to give it."""
