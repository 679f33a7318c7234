"""The figures of a comparison: what each holds (`scores`, `curves`), and two ways to draw them (`svg`, `paper`)."""
