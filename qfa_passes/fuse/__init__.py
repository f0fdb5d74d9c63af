"""Q/DQ graph -> QuantFlashAttention nodes and their function body."""
