"""What can be done with a policy besides training: measure its speed, evaluate it, sample from it."""
