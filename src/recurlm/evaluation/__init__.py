"""One definition of a score: windows, negative log-likelihoods, and the metrics of a split."""
