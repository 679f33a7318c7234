"""Many runs: planned first, run in a pool of warm processes, resumed, searched."""
