"""The MLflow mirror: one run for each result, to be compared in its UI; nothing reads it back to decide anything."""
