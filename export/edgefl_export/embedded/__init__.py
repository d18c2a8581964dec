"""The small backbone that ships inside edgefl, so that the demo and the tests need no download."""

EMBEDDED_MODEL = "glyphs_tiny_patch8_32"
