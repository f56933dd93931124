"""One definition of a score: which tokens are scored in what context, who scores them, and the numbers that follow."""
