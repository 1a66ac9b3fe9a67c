"""What a training saves and loads: the weights that it changes, its counts, and only classes that may be imported."""

from __future__ import annotations

from typing import Any, Self

from lightning import LightningModule

from embedrl.distributed.trained_keys import check_keys, trained_keys
from embedrl.training.checkpoints import check_classes, peek

_AVERAGED = "current_model_state"
"""Where Lightning's `WeightAveraging` keeps the weights in training, the averaged ones being the state."""

TOTALS = "totals"
"""Where a checkpoint keeps `TrainingModule.totals`."""


class SavedModule(LightningModule):
    """A module whose checkpoints hold what training changes.

    Attributes:
        totals: What has been counted since the start of the run on all processes, by name; checkpoints keep it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False  # `load_state_dict` checks the keys that must be there
        self.totals: dict[str, int] = {}

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """The module of a checkpoint, as Lightning builds it, if it names classes of installed packages alone.

        Args:
            checkpoint_path: The file, its URL, or an open file.
            map_location: Where its tensors go.
            hparams_file: A file of hyperparameters that replace its own.
            strict: Whether its keys must be the module's.
            weights_only: False lets it run code: never for a file that is not yours.
            **kwargs: Arguments of the module that replace its own.

        Raises:
            CheckpointError: If it cannot be read, holds more than tensors and plain values, or names another class.
        """
        safe = weights_only is not False
        check_classes(peek(checkpoint_path, safe), str(checkpoint_path))
        return super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, strict, safe, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what training changes, and the totals."""
        checkpoint[TOTALS] = dict(self.totals)
        keep = trained_keys(self)
        for name in ("state_dict", _AVERAGED):
            if name in checkpoint:
                checkpoint[name] = {key: value for key, value in checkpoint[name].items() if key in keep}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting; add the frozen weights for Lightning's weight averaging, which loads whole models."""
        self.totals = dict(checkpoint.get(TOTALS, {}))
        if _AVERAGED in checkpoint:
            frozen = {key: value for key, value in self.state_dict().items() if key not in trained_keys(self)}
            checkpoint["state_dict"] = frozen | checkpoint["state_dict"]

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load trained weights.

        Raises:
            CheckpointError: If a key is unknown, or a trained one is missing.
        """
        check_keys(self, state_dict)
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        result.missing_keys.clear()  # frozen
        return result
