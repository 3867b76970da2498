"""Problems on which the methods are run: each knows its exact lower-level response and, where possible, its optimum."""
