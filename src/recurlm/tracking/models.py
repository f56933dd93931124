"""Proven bundles as models of MLflow: each once, however many runs and registered versions lead to it."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus

from recurlm.report.results import Result, Results, BundleResult
from recurlm.report.sync_plan import validation_bits
from recurlm.tracking.client import pages
from recurlm.tracking.pyfunc_model import packaged
from recurlm.tracking.store import BUNDLE, KEY


def model_for(
    client: MlflowClient, experiment: str, run: str, results: Results, result: Result, bundles: BundleResult, key: str
) -> str:
    """The id of the model that holds a bundle; made where there is none, and linked to the run.

    Args:
        run: the id of the result's run.
        key: of the bundle.

    Raises:
        InputError: the bundle is not proven, or was changed.
    """
    found = find(client, experiment, key)
    if found is None:
        found = _make(client, experiment, run, results, result, shipped, key)
    linked = client.get_run(run).outputs
    if found.model_id not in {model.model_id for model in (linked.model_outputs if linked else [])}:
        client.log_outputs(run, [LoggedModelOutput(found.model_id, 0)])
    return str(found.model_id)


def find(client: MlflowClient, experiment: str, key: str) -> LoggedModel | None:
    """The whole model of a bundle, unless somebody deleted it or its files."""
    wanted = f"tags.`{BUNDLE}` = '{key}'"
    models = pages(lambda token: client.search_logged_models([experiment], wanted, page_token=token))
    whole = [model for model in models if model.status == LoggedModelStatus.READY]
    return next((model for model in whole if client.list_logged_model_artifacts(model.model_id)), None)


def facts(results: Results, result: Result, bundles: BundleResult, key: str) -> dict[str, str]:
    """The tags of a bundle's model and versions: what it is, how good, how large, how proven, where it comes from."""
    proof, name = shipped.proof or {}, "" if result.causal else "pseudo_"
    scores = (result.metrics or {}).get("test") or {}
    validation = ((results.corpus or {}).get("splits") or {}).get("validation") or {}
    found = {
        BUNDLE: key,
        KEY: result.key,
        "variant": result.name,
        "precision": shipped.precision,
        "portable": (shipped.bundle or {}).get("portable"),
        "proof": "passed" if proof.get("passed") is True else "failed",
        "proof_tokens_identical": proof.get("greedy_tokens_identical", 0) + proof.get("sampled_tokens_identical", 0),
        "proof_near_ties": proof.get("near_ties"),
        "bundle_bytes": proof.get("bundle_bytes"),
        "parameters": result.parameters,
        f"validation_{name}bits_per_byte": validation_bits(result),
        f"test_{name}bits_per_byte": scores.get(f"{name}bits_per_byte"),
        "perplexity_increase": proof.get("perplexity_increase", 0.0),
        "validation_text": validation.get("sha256"),
        "model_sha256": (shipped.bundle or {}).get("model_sha256"),
        "dvc_lock_bundle": result.locked.get(f"data/onnx/{result.name}"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def summary(tags: dict[str, str]) -> str:
    """One line for people, of the facts of a bundle."""
    pseudo = "pseudo_" if "validation_pseudo_bits_per_byte" in tags else ""
    bits = float(tags.get(f"validation_{pseudo}bits_per_byte", "nan"))
    return (
        f"{tags['variant']} in {tags['precision']}, {int(tags.get('bundle_bytes', 0)) / 1e6:.1f} MB: {bits:.3f} "
        f"{pseudo.replace('_', '-')}bits per byte on the validation split, proof {tags['proof']}, "
        f"perplexity {float(tags['perplexity_increase']):+.2%} against PyTorch"
    )


def _make(
    client: MlflowClient, experiment: str, run: str, results: Results, result: Result, bundles: BundleResult, key: str
) -> LoggedModel:
    tags = facts(results, result, shipped, key)
    name = f"{result.name}-{shipped.precision}"
    kind = "generator" if result.causal else "filler"
    model = client.create_logged_model(experiment, name, run, tags, model_type=kind)
    with packaged(shipped.folder, model.model_id, run) as folder:
        client.log_model_artifacts(model.model_id, str(folder))
    # One that a killed process left is never ready, and is made anew.
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
