"""`recurlm serve`: bundles behind HTTP, with OpenAI's `/v1/completions`, and `/score`, `/fill`, `/health`, `/metrics`.

    server         uvicorn and signals              settings     settings and limits
    app            the routes                       openapi      /openapi.json of this server
    middleware     API key, body size, counters     metrics      Prometheus metrics
    schema         requests and responses           errors       errors in OpenAI's form
    completions    a request of /v1/completions     scoring      /score and /fill
    text_stream    tokens → text, stop sequences    logprobs     log-probabilities of tokens
    scheduler      continuous batching              engine       the thread that runs it
    models         the loaded bundles               workers      threads for what is not batched
    connections    deadlines, a bound, log limits

It imports `recurlm.runtime` and nothing of the pipeline.
"""
