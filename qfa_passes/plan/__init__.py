"""Which format where: the plan and its file."""
