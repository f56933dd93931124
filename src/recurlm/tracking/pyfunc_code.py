"""What `mlflow models serve` runs: text in, text out, by a bundle and recurlm's runtime alone.

MLflow copies this file into each registered model and runs it when the model is loaded: code, in place of a pickle.
Beside it lie the bundle and the few files of recurlm that run it; neither torch nor an installed recurlm is needed.
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
    """Continues prompts, or fills in the blanks `___` of texts where the model is a cloze model."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle; a changed byte in it is refused."""
        bundle = Bundle.open(context.artifacts["bundle"])
        self.generator = Generator(bundle) if bundle.causal else None
        self.filler = None if bundle.causal else Filler(bundle)

    def predict(
        self, context: PythonModelContext, model_input: DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """One text for each text.

        Args:
            model_input: one column of texts; MLflow makes it of a list or a single text.
            params: those of the model's signature.

        Raises:
            MlflowException: a setting is out of range, or a text holds what the vocabulary lacks.
        """
        try:
            return self._texts(model_input.iloc[:, 0].tolist(), params or {})
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None

    def _texts(self, texts: list[str], params: dict[str, Any]) -> list[str]:
        if self.filler is not None:
            return [self.filler.fill(text, **params) for text in texts]
        assert self.generator is not None
        # A text alone is that of `recurlm generate`; several are drawn in the same calls, row i with the seed + i.
        if len(texts) == 1:
            return [self.generator.generate(texts[0], **params)]
        return self.generator.generate_batch(texts, **params)


set_model(Text())
