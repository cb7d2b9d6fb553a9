"""What methods of our own put into a model: torch modules and their gradients. Imported when a method attaches."""
