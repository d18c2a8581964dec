"""The data centre: a stock Flower SuperLink with a strategy that knows tiers; no torch."""
