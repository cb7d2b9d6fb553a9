"""How merged weights are written: in the base's own layout, tensor by tensor, in memory of a few tensors."""
