"""The model registry: a version for each verified bundle, and the aliases for deployment."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from recurlm.report.results import Results
from recurlm.report.sync_plan import SyncPlan, bundle_keys
from recurlm.tracking.client import versions_of
from recurlm.tracking.models import model_for, summary, tags_of
from recurlm.tracking.promotion import CHALLENGER, CHAMPION, Candidate, moves
from recurlm.tracking.store import BUNDLE, PROMOTION_DECIDED, Store
from recurlm.tracking.store_contents import is_own

# What aliases are decided by; all else that is known of a bundle is on its logged model.
VERSION_TAGS = {
    BUNDLE,
    "validation_bits_per_byte",
    "validation_pseudo_bits_per_byte",
    "validation_text",
    "model_sha256",
    "verified",
}


def register(
    client: MlflowClient, store: Store, experiment: str, results: Results, plan: SyncPlan, runs: dict[str, str]
) -> list[str]:
    """Register the missing versions, and decide their aliases.

    Args:
        runs: variant → the id of its run.

    Returns:
        One line per registered model that changed.

    Raises:
        InputError: a bundle is not verified, or was changed.
    """
    bundles = {
        key: (result, bundle)
        for result in results.variants
        if result.name in runs
        for bundle, key in zip(result.bundles, bundle_keys(result), strict=True)
    }
    messages = []
    for name, keys in plan.model_versions.items():
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
        return is_own(store, client.get_model_version_download_uri(name, version.version))
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
