"""The registered models: a version for each proven bundle, and the aliases that people deploy by."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from recurlm.report.results import Results
from recurlm.report.sync_plan import SyncPlan, bundle_keys
from recurlm.tracking.client import versions_of
from recurlm.tracking.models import facts, model_for, summary
from recurlm.tracking.store_contents import is_own
from recurlm.tracking.promotion import CHALLENGER, CHAMPION, Candidate, moves
from recurlm.tracking.store import BUNDLE, PROMOTION_DECIDED, Store


def register(
    client: MlflowClient, store: Store, experiment: str, results: Results, wanted: SyncPlan, runs: dict[str, str]
) -> list[str]:
    """Make the versions that are missing, and decide on their aliases.

    Args:
        runs: variant → the id of its run.

    Returns:
        A line on each registered model that something was done to.

    Raises:
        InputError: a bundle is not proven, or was changed.
    """
    bundles = {
        key: (result, shipped)
        for result in results.variants
        if result.name in runs
        for shipped, key in zip(result.bundles, bundle_keys(result), strict=True)
    }
    told = []
    for name, keys in wanted.versions.items():
        versions, made = _whole(client, store, name), []
        moved: dict[str, str] = {}
        for key in keys:
            result, shipped = bundles[key]
            version = versions.get(key)
            if version is None:
                model = model_for(client, experiment, runs[result.name], results, result, shipped, key)
                version = _register(client, name, model, runs[result.name], facts(results, result, shipped, key))
                made.append(f"{version.version} ({result.name} {shipped.precision})")
            if PROMOTION_DECIDED not in version.tags:
                moved |= _judge(client, name, version)
        if made:
            told.append(f"registered {name} {', '.join(made)}")
        told += [f"{name}: {alias} is version {version}" for alias, version in moved.items()]
    return told


def _whole(client: MlflowClient, store: Store, name: str) -> dict[str, ModelVersion]:
    """Bundle → its version; those whose files are gone are deleted, and so are doubles: the oldest stays."""
    whole: dict[str, ModelVersion] = {}
    for version in versions_of(client, name):
        key = version.tags.get(BUNDLE)
        if key is None:  # somebody's own
            continue
        if key in whole or not _has_files(client, store, name, version):
            client.delete_model_version(name, version.version)
        else:
            whole[key] = version
    return whole


def _has_files(client: MlflowClient, store: Store, name: str, version: ModelVersion) -> bool:
    try:
        place = client.get_model_version_download_uri(name, version.version)
        return is_own(store, place) and bool(
            client.list_logged_model_artifacts(str(version.source).removeprefix("models:/"))
        )
    except MlflowException:
        return False


def _register(client: MlflowClient, name: str, model: str, run: str, tags: dict[str, str]) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(name, f"models:/{model}", run, tags, None, summary(tags), model_id=model)
    same = [version for version in versions_of(client, name) if version.tags.get(BUNDLE) == tags[BUNDLE]]
    for double in same[1:]:  # another machine was faster
        client.delete_model_version(name, double.version)
    return same[0] if same else made


def _judge(client: MlflowClient, name: str, version: ModelVersion) -> dict[str, str]:
    """Move the aliases that a new version takes; the decision is made once, and what a person sets later stays.

    Returns:
        Alias → version.
    """
    aliases = client.get_registered_model(name).aliases
    held = {
        alias: Candidate.of(client.get_model_version(name, aliases[alias]))
        for alias in (CHAMPION, CHALLENGER)
        if alias in aliases
    }
    new = moves(Candidate.of(version), held.get(CHAMPION), held.get(CHALLENGER))
    for alias, candidate in new.items():
        client.set_registered_model_alias(name, alias, candidate.version)
    client.set_model_version_tag(name, version.version, PROMOTION_DECIDED, "true")
    return {alias: candidate.version for alias, candidate in new.items()}
