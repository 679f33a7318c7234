"""What is done with a policy beside training it: measure its speed, evaluate it, sample from it."""
