"""Verified bundles in MLflow: each is a logged model once, however many runs and registered versions refer to it.

In the registry `champion` is the version to deploy, and `challenger` the next best. To decide an alias, the tags of the
versions that hold one are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from recurlm.report.results import BundleResult, Result, Results
from recurlm.tracking.pyfunc_model import model_folder
from recurlm.tracking.store import KEY, Store

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


@dataclass(frozen=True)
class Registry:
    """The logged models and registered versions of one experiment's bundles."""

    client: MlflowClient
    store: Store
    experiment: str
    results: Results

    def model_for(self, run: str, result: Result, bundle: BundleResult) -> str:
        """The id of the logged model of a bundle, which is created where there is none, and linked to the result's run.

        Raises:
            InputError: the bundle is not verified, or was changed.
        """
        model = self._find(bundle.key) or self._log_model(run, result, bundle)
        linked = self.client.get_run(run).outputs
        if model.model_id not in {output.model_id for output in (linked.model_outputs if linked else [])}:
            self.client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
        return str(model.model_id)

    def _find(self, key: str) -> LoggedModel | None:
        """The logged model of a bundle; None if it is incomplete, or it or its artifacts were deleted."""
        models = mlflow.search_logged_models([self.experiment], f"tags.`{BUNDLE}` = '{key}'", output_format="list")
        ready = [model for model in models if model.status == LoggedModelStatus.READY]
        return next((model for model in ready if self.client.list_logged_model_artifacts(model.model_id)), None)

    def _log_model(self, run: str, result: Result, bundle: BundleResult) -> LoggedModel:
        name, tags = f"{result.name}-{bundle.precision}", self._tags(result, bundle)
        model = self.client.create_logged_model(self.experiment, name, run, tags, model_type=result.objective.task)
        with model_folder(bundle.folder, model.model_id, run) as folder:
            self.client.log_model_artifacts(model.model_id, str(folder))
        # The model of a killed process never becomes ready, and is logged again.
        return self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _tags(self, result: Result, bundle: BundleResult) -> dict[str, str]:
        """The tags of a bundle's model and versions: precision, scores, size, verification and hashes."""
        verification, bits = bundle.verification, result.objective.metric("bits_per_byte")
        tags = {
            BUNDLE: bundle.key,
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
            f"test_{bits}": result.metrics.get("test", {}).get(bits),
            "perplexity_increase": verification.get("perplexity_increase", 0.0),
            "validation_text": self.results.corpus.get("splits", {}).get("validation", {}).get("sha256"),
            "model_sha256": bundle.description.get("model_sha256"),
            "dvc_lock_bundle": result.locked.get(f"data/onnx/{result.name}"),
        }
        return {name: str(value) for name, value in tags.items() if value is not None}

    def register(self, wanted: dict[str, list[str]], runs: dict[str, str]) -> list[str]:
        """Register the missing versions, and decide their aliases.

        Args:
            wanted: registered model → keys of its versions.
            runs: variant → the id of its run.

        Returns:
            One line per registered model that changed.

        Raises:
            InputError: a bundle is not verified, or was changed.
        """
        complete = [result for result in self.results.variants if result.complete]
        bundles = {bundle.key: (result, bundle) for result in complete for bundle in result.bundles}
        messages = []
        for name, keys in wanted.items():
            versions, registered = self._intact_versions(name), []
            moved: dict[str, str] = {}
            for key in keys:
                result, bundle = bundles[key]
                version = versions.get(key)
                if version is None:
                    version = self._register(name, runs[result.name], result, bundle)
                    registered.append(f"{version.version} ({result.name} {bundle.precision})")
                if PROMOTION_DECIDED not in version.tags:
                    moved |= self._promote(name, version)
            if registered:
                messages.append(f"registered {name} {', '.join(registered)}")
            messages += [f"{name}: {alias} is version {version}" for alias, version in moved.items()]
        return messages

    def _intact_versions(self, name: str) -> dict[str, ModelVersion]:
        """Bundle → its oldest version; duplicates and versions without artifacts are deleted."""
        intact: dict[str, ModelVersion] = {}
        for version in versions_of(name):
            key = version.tags.get(BUNDLE)
            # Those that a person registered, and those of the checkout that this one is a copy of, stay as they are.
            if key is None or not self._is_ours(version):
                continue
            if key in intact or not self._has_files(version):
                self.client.delete_model_version(name, version.version)
            else:
                intact[key] = version
        return intact

    def _is_ours(self, version: ModelVersion) -> bool:
        try:
            return self.store.holds(self.client.get_model_version_download_uri(version.name, version.version))
        except MlflowException:  # its model was deleted
            return True

    def _has_files(self, version: ModelVersion) -> bool:
        try:
            return bool(self.client.list_logged_model_artifacts(str(version.source).removeprefix("models:/")))
        except MlflowException:
            return False

    def _register(self, name: str, run: str, result: Result, bundle: BundleResult) -> ModelVersion:
        model, tags = self.model_for(run, result, bundle), self._tags(result, bundle)
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        few = {tag: value for tag, value in tags.items() if tag in VERSION_TAGS}
        line = summary(result, bundle)
        created = self.client.create_model_version(name, f"models:/{model}", run, few, None, line, model_id=model)
        same = [each for each in versions_of(name) if each.tags.get(BUNDLE) == bundle.key and self._is_ours(each)]
        for duplicate in same[1:]:  # another machine was faster
            self.client.delete_model_version(name, duplicate.version)
        return same[0] if same else created

    def _promote(self, name: str, version: ModelVersion) -> dict[str, str]:
        """Move the aliases that a new version takes. This is decided once: an alias that a person sets later stays.

        Returns:
            Alias → version.
        """
        aliases = self.client.get_registered_model(name).aliases
        holders = {
            alias: self.client.get_model_version(name, aliases[alias])
            for alias in (CHAMPION, CHALLENGER)
            if alias in aliases
        }
        # An alias never stays on files of another checkout, which may be gone.
        held = {
            alias: Candidate.of(each)
            for alias, each in holders.items()
            if BUNDLE not in each.tags or self._is_ours(each)
        }
        new = moves(Candidate.of(version), held.get(CHAMPION), held.get(CHALLENGER))
        for alias, candidate in new.items():
            self.client.set_registered_model_alias(name, alias, candidate.version)
        for alias in holders.keys() - held.keys() - new.keys():
            self.client.delete_registered_model_alias(name, alias)
        if CHAMPION in new:
            self.client.update_registered_model(name, f"Champion: version {version.version}, {version.description}.")
        self.client.set_model_version_tag(name, version.version, PROMOTION_DECIDED, "true")
        return {alias: candidate.version for alias, candidate in new.items()}


def versions_of(name: str) -> list[ModelVersion]:
    """All versions of a registered model, the oldest first; none where there is no such model."""
    return sorted(mlflow.search_model_versions(filter_string=f"name = '{name}'"), key=lambda each: int(each.version))


def summary(result: Result, bundle: BundleResult) -> str:
    """One readable line about a bundle."""
    verification, bits = bundle.verification, result.validation_bits
    return (
        f"{result.name} in {bundle.precision}, {verification.get('bundle_bytes', 0) / 1e6:.1f} MB: "
        f"{math.nan if bits is None else bits:.3f} {result.objective.unit('bits')} per byte on the validation split, "
        f"{'verified' if bundle.verified else 'not verified'}, "
        f"perplexity {verification.get('perplexity_increase', 0.0):+.2%} over PyTorch"
    )


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
