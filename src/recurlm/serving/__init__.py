"""`recurlm serve`: bundles behind HTTP, with OpenAI's `/v1/completions`, and `/score`, `/fill`, `/health`, `/metrics`.

    settings   what a person sets, and the limits
    schema     requests and answers          errors    everything refused, in OpenAI's form
    loaded     the bundles                   batch     many texts in one call; engine: the thread that draws them
    writing    tokens → text, stop, echo     logprobs  how likely each token was
    app        the routes                    gate      API key, size of bodies, counters, before any route
    server     uvicorn, its signals

It imports `recurlm.runtime` and nothing of the pipeline.
"""
