"""The `mlflow.pyfunc` model of a bundle: text in, text out, by recurlm's runtime.

MLflow copies this file into each logged model and runs it when the model is loaded: models from code, not a pickle.
The bundle and the files of recurlm that run it are copied with it; neither torch nor an installed recurlm is needed.
"""

from __future__ import annotations

from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pandas import DataFrame

from recurlm.errors import InputError
from recurlm.runtime import Bundle, Filler, Generator


class Text(PythonModel):
    """Continues prompts; a bundle with a filler fills the masks `___` of texts instead."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle; a changed byte in it is refused."""
        bundle = Bundle.open(context.artifacts["bundle"])
        self.generator = Generator(bundle) if "generate" in bundle.tasks else None
        self.filler = Filler(bundle) if "fill" in bundle.tasks else None

    def predict(
        self, context: PythonModelContext, model_input: DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """One output text per input text.

        Args:
            model_input: one column of texts; MLflow converts a list or a single text.
            params: those of the model's signature.

        Raises:
            MlflowException: a setting is out of range, or the vocabulary cannot spell a text.
        """
        try:
            return self._texts(model_input.iloc[:, 0].tolist(), params or {})
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None

    def _texts(self, texts: list[str], params: dict[str, Any]) -> list[str]:
        if self.filler is not None:
            return [self.filler.fill(text, **params) for text in texts]
        assert self.generator is not None
        # One text is as from `recurlm generate`; several are one batch, row i with seed + i.
        if len(texts) == 1:
            return [self.generator.generate(texts[0], **params)]
        return self.generator.generate_batch(texts, **params)


set_model(Text())
