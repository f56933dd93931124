"""Verified bundles as MLflow logged models: each once, however many runs and registered versions refer to it."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus

from recurlm.report.results import BundleResult, Result, Results, validation_bits
from recurlm.storage import sha256_of
from recurlm.tracking.pyfunc_model import model_folder
from recurlm.tracking.store import KEY, all_pages

BUNDLE = "recurlm.bundle"  # tag of a model and of a registered version: the key of its bundle


def bundle_keys(result: Result) -> list[str]:
    """The sha256 of each bundle.json, which holds those of all its files; in order of precision, fp32 first."""
    return [sha256_of(bundle.folder / "bundle.json") for bundle in result.bundles if bundle.description]


def model_for(
    client: MlflowClient, experiment: str, run: str, results: Results, result: Result, bundle: BundleResult, key: str
) -> str:
    """The id of the logged model of a bundle, which is created where there is none, and linked to the run.

    Args:
        run: the id of the result's run.
        key: of the bundle.

    Raises:
        InputError: the bundle is not verified, or was changed.
    """
    model = find(client, experiment, key)
    if model is None:
        model = _log_model(client, experiment, run, results, result, bundle, key)
    linked = client.get_run(run).outputs
    if model.model_id not in {output.model_id for output in (linked.model_outputs if linked else [])}:
        client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
    return str(model.model_id)


def find(client: MlflowClient, experiment: str, key: str) -> LoggedModel | None:
    """The logged model of a bundle; None if it is incomplete, or it or its artifacts were deleted."""
    query = f"tags.`{BUNDLE}` = '{key}'"
    models = all_pages(lambda token: client.search_logged_models([experiment], query, page_token=token))
    ready = [model for model in models if model.status == LoggedModelStatus.READY]
    return next((model for model in ready if client.list_logged_model_artifacts(model.model_id)), None)


def tags_of(results: Results, result: Result, bundle: BundleResult, key: str) -> dict[str, str]:
    """The tags of a bundle's model and versions: precision, scores, size, verification and hashes."""
    verification, bits = bundle.verification or {}, result.objective.metric("bits_per_byte")
    scores = (result.metrics or {}).get("test") or {}
    validation = ((results.corpus or {}).get("splits") or {}).get("validation") or {}
    tags = {
        BUNDLE: key,
        KEY: result.key,
        "variant": result.name,
        "precision": bundle.precision,
        "verified": str(bundle.verified).lower(),
        "verification_tokens_identical": verification.get("greedy_tokens_identical", 0)
        + verification.get("sampled_tokens_identical", 0),
        "verification_near_ties": verification.get("near_ties"),
        "bundle_bytes": verification.get("bundle_bytes"),
        "parameters": result.parameters,
        f"validation_{bits}": validation_bits(result),
        f"test_{bits}": scores.get(bits),
        "perplexity_increase": verification.get("perplexity_increase", 0.0),
        "validation_text": validation.get("sha256"),
        "model_sha256": (bundle.description or {}).get("model_sha256"),
        "dvc_lock_bundle": result.locked.get(f"data/onnx/{result.name}"),
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def summary(tags: dict[str, str]) -> str:
    """One readable line of a bundle's tags."""
    pseudo = "pseudo_" if "validation_pseudo_bits_per_byte" in tags else ""
    bits = float(tags.get(f"validation_{pseudo}bits_per_byte", "nan"))
    return (
        f"{tags['variant']} in {tags['precision']}, {int(tags.get('bundle_bytes', 0)) / 1e6:.1f} MB: {bits:.3f} "
        f"{pseudo.replace('_', '-')}bits per byte on the validation split, "
        f"{'verified' if tags['verified'] == 'true' else 'not verified'}, "
        f"perplexity {float(tags['perplexity_increase']):+.2%} over PyTorch"
    )


def _log_model(
    client: MlflowClient, experiment: str, run: str, results: Results, result: Result, bundle: BundleResult, key: str
) -> LoggedModel:
    tags = tags_of(results, result, bundle, key)
    name = f"{result.name}-{bundle.precision}"
    model = client.create_logged_model(experiment, name, run, tags, model_type=result.objective.task)
    with model_folder(bundle.folder, model.model_id, run) as folder:
        client.log_model_artifacts(model.model_id, str(folder))
    # The model of a killed process never becomes ready, and is logged again.
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
