"""The only room that imports torch, transformers, peft and bitsandbytes."""
