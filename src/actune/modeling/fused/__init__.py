"""Forward and backward passes of Llama-like decoders with LoRA, written out: fewer passes over memory, same mathematics."""
