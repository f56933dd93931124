"""`recurlm serve`: bundles behind HTTP, with OpenAI's `/v1/completions`, and `/score`, `/fill`, `/health`, `/metrics`.

    server         uvicorn and signals              settings     settings and limits
    app            the routes; /score and /fill     schema       requests and responses, as /openapi.json has them
    middleware     API key, body size, metrics      exceptions   errors in OpenAI's form
    completions    a request of /v1/completions     workers      threads for what is not batched
    scheduler      continuous batching              engine       the thread that runs it
    models         the loaded bundles               reading      how much a request to fill reads
    connections    deadlines, a bound, log limits

It imports `recurlm.runtime` and nothing of the pipeline.
"""
