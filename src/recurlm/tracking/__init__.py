"""MLflow tracking: a copy of the results for comparison in its UI, and the registry of verified bundles."""

import os

# MLflow reads these when it is imported, so they are set before any module in here can do that.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # which also writes into the home folder
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of 7, which take minutes where there is no server
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each of many small folders
