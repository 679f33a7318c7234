"""The figures of a comparison: their content (`scores`, `curves`), and two renderers (`svg`, `paper`)."""
