"""Is it the same function? An algorithm, loss or advantage held against another, in float64: `compare.compare`."""
