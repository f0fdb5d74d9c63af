"""Reading the attention operators of ``com.microsoft``: what a node asks for, or why that is not supported."""
