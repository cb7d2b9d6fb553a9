"""The LoRA family: what a layer's adapter starts from, which rank it gets, how it is put on and saved."""
