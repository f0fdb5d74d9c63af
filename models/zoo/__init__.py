"""Small models with random weights, one for every way in which attention is written today."""
