"""A small Llama-style language model over bytes, trained on State of the Union addresses."""
