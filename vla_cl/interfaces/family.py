"""What a run needs of a family of models: robot policies, language models, models of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from vla_cl.interfaces.data import Data
from vla_cl.interfaces.evaluation import Evaluator
from vla_cl.interfaces.method import Method
from vla_cl.interfaces.model import Model
from vla_cl.types import ConfigurationError, Experience, Stream, Task


class Family(ABC):
    """Model, data and evaluator of one stream; *family* as the survey arXiv 2506.13045 uses the word.

    The run (`vla_cl.run.continual`) asks for nothing else, so that every family is learnt, resumed and scored by the
    same lines.
    """

    name: str

    threads: int = 0
    """Torch threads that suit its models, where the user leaves it open; 0: torch's choice."""

    @abstractmethod
    def tasks(self) -> Sequence[Task]:
        """What can be learnt; a stream is made of these."""

    def check(self, stream: Stream, method: Method) -> None:  # noqa: B027 - most have nothing to add
        """Refuse what cannot work, before anything slow starts; the method stays as it is.

        Raises:
            ConfigurationError: Something does not fit.
        """

    @abstractmethod
    def new_model(self, first: Experience, seed: int) -> Model:
        """The model that begins with this experience.

        Raises:
            ConfigurationError: It does not fit the data.
        """

    @abstractmethod
    def load_model(self, folder: Path) -> Model:
        """What `Model.save` wrote; for the same batches it gives the same bits as the model that was saved."""

    @abstractmethod
    def data(self, experience: Experience, model: Model) -> Data:
        """The data of an experience, as the model learns from them.

        Raises:
            ConfigurationError: They do not fit the model.
        """

    def reused_data(self, folder: Path, model: Model) -> Data:
        """What another run remembered and exported to a folder.

        Raises:
            ConfigurationError: This family cannot take it over.
        """
        raise ConfigurationError(
            f"method.memory.reuse={folder} cannot be taken over: models of the family {self.name!r} read no exported "
            "memory; leave it out"
        )

    @abstractmethod
    def evaluator(self) -> Evaluator:
        """What scores the model on the stream's tasks; enter it before it is asked."""

    def further_evaluators(self) -> Sequence[Evaluator]:
        """What else scores the model, each with a table and measures of its own; most have nothing."""
        return ()

    def identity(self) -> Mapping[str, object]:
        """What decides scores beside weights and settings, as plain data: the content of files, versions."""
        return {}

    def facts(self) -> Mapping[str, object]:
        """What ``run.json`` says beside what every run says, as plain data."""
        return {}

    def passed_over(self) -> tuple[str, ...]:
        """A sentence for each damaged file that `new_model` went on without."""
        return ()
