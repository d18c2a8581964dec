"""Fine-tune the adapter at a tier's exit on a device's own samples; the global adapter stays what it is."""
