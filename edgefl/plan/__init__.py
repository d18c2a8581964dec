"""Which exit a device can afford to train, worked out from counted costs and without the device."""
