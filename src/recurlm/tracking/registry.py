"""Verified bundles in MLflow: each is a logged model once, however many runs and registered versions refer to it.

In the registry `champion` is the version to deploy, and `challenger` the next best. To decide an alias, the tags of the
versions that hold one are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from recurlm.report.results import BundleResult, Result, Results
from recurlm.storage import sha256_of
from recurlm.tracking.pyfunc_model import model_folder
from recurlm.tracking.store import KEY, Store, all_pages

BUNDLE = "recurlm.bundle"  # tag of a model and of a registered version: the key of its bundle
CHAMPION, CHALLENGER = "champion", "challenger"
PROMOTION_DECIDED = "recurlm.promotion_decided"  # tag of a version whose aliases are decided
# What aliases are decided by; all else that is known of a bundle is on its logged model.
VERSION_TAGS = {
    BUNDLE,
    "validation_bits_per_byte",
    "validation_pseudo_bits_per_byte",
    "validation_text",
    "model_sha256",
    "verified",
}


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
    verification, bits = bundle.verification, result.objective.metric("bits_per_byte")
    scores = result.metrics.get("test") or {}
    validation = results.corpus.get("splits", {}).get("validation", {})
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
        f"validation_{bits}": result.validation_bits,
        f"test_{bits}": scores.get(bits),
        "perplexity_increase": verification.get("perplexity_increase", 0.0),
        "validation_text": validation.get("sha256"),
        "model_sha256": bundle.description.get("model_sha256"),
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


def register(
    client: MlflowClient,
    store: Store,
    experiment: str,
    results: Results,
    wanted: dict[str, list[str]],
    runs: dict[str, str],
) -> list[str]:
    """Register the missing versions, and decide their aliases.

    Args:
        wanted: registered model → keys of its versions.
        runs: variant → the id of its run.

    Returns:
        One line per registered model that changed.

    Raises:
        InputError: a bundle is not verified, or was changed.
    """
    bundles = {
        key: (result, bundle)
        for result in results.variants
        if result.complete
        for bundle, key in zip(result.bundles, bundle_keys(result), strict=True)
    }
    messages = []
    for name, keys in wanted.items():
        versions, registered = _intact_versions(client, store, name), []
        moved: dict[str, str] = {}
        for key in keys:
            result, bundle = bundles[key]
            version = versions.get(key)
            if version is None:
                model = model_for(client, experiment, runs[result.name], results, result, bundle, key)
                version = _register(
                    client, store, name, model, runs[result.name], tags_of(results, result, bundle, key)
                )
                registered.append(f"{version.version} ({result.name} {bundle.precision})")
            if PROMOTION_DECIDED not in version.tags:
                moved |= _promote(client, store, name, version)
        if registered:
            messages.append(f"registered {name} {', '.join(registered)}")
        messages += [f"{name}: {alias} is version {version}" for alias, version in moved.items()]
    return messages


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a registered model, the oldest first; none where there is no such model."""
    versions = all_pages(lambda token: client.search_model_versions(f"name = '{name}'", page_token=token))
    return sorted(versions, key=lambda version: int(version.version))


def _intact_versions(client: MlflowClient, store: Store, name: str) -> dict[str, ModelVersion]:
    """Bundle → its oldest version; duplicates and versions without artifacts are deleted."""
    intact: dict[str, ModelVersion] = {}
    for version in versions_of(client, name):
        key = version.tags.get(BUNDLE)
        # Those that a person registered, and those of the checkout that this one is a copy of, stay as they are.
        if key is None or not _is_ours(client, store, name, version):
            continue
        if key in intact or not _has_files(client, version):
            client.delete_model_version(name, version.version)
        else:
            intact[key] = version
    return intact


def _is_ours(client: MlflowClient, store: Store, name: str, version: ModelVersion) -> bool:
    try:
        return store.holds(client.get_model_version_download_uri(name, version.version))
    except MlflowException:  # its model was deleted
        return True


def _has_files(client: MlflowClient, version: ModelVersion) -> bool:
    try:
        return bool(client.list_logged_model_artifacts(str(version.source).removeprefix("models:/")))
    except MlflowException:
        return False


def _register(
    client: MlflowClient, store: Store, name: str, model: str, run: str, tags: dict[str, str]
) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    few = {tag: value for tag, value in tags.items() if tag in VERSION_TAGS}
    created = client.create_model_version(name, f"models:/{model}", run, few, None, summary(tags), model_id=model)
    same = [version for version in versions_of(client, name) if version.tags.get(BUNDLE) == tags[BUNDLE]]
    same = [version for version in same if _is_ours(client, store, name, version)]
    for duplicate in same[1:]:  # another machine was faster
        client.delete_model_version(name, duplicate.version)
    return same[0] if same else created


def _promote(client: MlflowClient, store: Store, name: str, version: ModelVersion) -> dict[str, str]:
    """Move the aliases that a new version takes. This is decided once: an alias that a person sets later stays.

    Returns:
        Alias → version.
    """
    aliases = client.get_registered_model(name).aliases
    holders = {
        alias: client.get_model_version(name, aliases[alias]) for alias in (CHAMPION, CHALLENGER) if alias in aliases
    }
    # An alias never stays on files of another checkout, which may be gone.
    held = {
        alias: Candidate.of(each)
        for alias, each in holders.items()
        if BUNDLE not in each.tags or _is_ours(client, store, name, each)
    }
    new = moves(Candidate.of(version), held.get(CHAMPION), held.get(CHALLENGER))
    for alias, candidate in new.items():
        client.set_registered_model_alias(name, alias, candidate.version)
    for alias in holders.keys() - held.keys() - new.keys():
        client.delete_registered_model_alias(name, alias)
    if CHAMPION in new:
        client.update_registered_model(name, f"Champion: version {version.version}, {version.description}.")
    client.set_model_version_tag(name, version.version, PROMOTION_DECIDED, "true")
    return {alias: candidate.version for alias, candidate in new.items()}


@dataclass(frozen=True)
class Candidate:
    """A registered version with the values that decide its aliases."""

    version: str
    model: str  # sha256 of the unquantized weights
    text: str  # sha256 of the validation split
    bits: float  # (pseudo-)bits per byte on it
    verified: bool

    @classmethod
    def of(cls, version: Any) -> Candidate:
        """From the tags of an MLflow version; without them a person registered it, and it is never beaten."""
        tags = version.tags
        bits = tags.get("validation_bits_per_byte") or tags.get("validation_pseudo_bits_per_byte")
        return cls(
            version=str(version.version),
            model=tags.get("model_sha256", ""),
            text=tags.get("validation_text", ""),
            bits=float("nan") if bits is None else float(bits),
            verified=tags.get("verified") == "true",
        )

    def beats(self, other: Candidate) -> bool:
        """Whether it has fewer bits per byte on the same text; NaN beats nothing."""
        return self.text == other.text and self.bits < other.bits


def moves(new: Candidate, champion: Candidate | None, challenger: Candidate | None) -> dict[str, Candidate]:
    """Alias → the version that it moves to after a new one was registered.

    An alias moves only to a verified version with a better metric. A tie moves nothing, so of one model's bundles the
    first registered, of the highest precision, stays. A champion that is beaten becomes the challenger.
    """
    if not new.verified or new.bits != new.bits:
        return {}
    if champion is None:
        return {CHAMPION: new}
    if new.beats(champion):
        return {CHAMPION: new} if new.model == champion.model else {CHAMPION: new, CHALLENGER: champion}
    if new.model == champion.model or new.text != champion.text:
        return {}
    if challenger is None or new.beats(challenger):
        return {CHALLENGER: new}
    return {}
