"""Other trainers' own preparation of the same rows, each run by an interpreter that has it installed."""
