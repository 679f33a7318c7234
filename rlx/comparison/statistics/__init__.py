"""Statistics over seeds, prompts and tasks: pure functions of arrays; randomness is an argument. Error rates: `measured`."""
