"""The only room that imports torch, transformers, peft and bitsandbytes."""

import logging

# Where torchao is installed, transformers imports it: what it misses is kernels for other machines.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
