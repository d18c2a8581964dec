"""Whether this device computes what the exporter computed: the golden values of a bundle, replayed."""
