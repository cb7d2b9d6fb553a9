"""How a child process is measured, and what beside it: the machine, its ceilings, a checkout to run in."""
