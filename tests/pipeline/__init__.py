"""The order of stages, and what stays as it was when nothing comes of a site."""
