"""Before against after: error measures, language model measures, the guard, inputs and sites."""
