"""What a network of improved-diffusion predicts, how its variance comes about, and which loss it is trained by."""

from enum import Enum
from typing import Any, TypeVar

from ...schedule import Prediction, Variance

ModelMeanType = Enum("ModelMeanType", ["PREVIOUS_X", "START_X", "EPSILON"])
ModelVarType = Enum("ModelVarType", ["LEARNED", "FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"])


class LossType(Enum):
    """Which loss a network is trained by."""

    MSE = 1
    RESCALED_MSE = 2
    KL = 3
    RESCALED_KL = 4

    def is_vb(self) -> bool:
        """Whether it is the variational bound alone."""
        return self in (LossType.KL, LossType.RESCALED_KL)


# what those that the ops have are called here
PREDICTIONS: dict[str, Prediction] = {"EPSILON": "eps", "START_X": "x_0"}
VARIANCES: dict[str, Variance] = {
    "FIXED_SMALL": "posterior",
    "FIXED_LARGE": "beta",
    "LEARNED_RANGE": "learned_range",
}
Kind = TypeVar("Kind", bound=Enum)


def member(name: str, kind: Any, kinds: type[Kind]) -> Kind:
    """The member of that name, which may be given by name or be a member of another enumeration."""
    called = getattr(kind, "name", kind)
    if called not in kinds.__members__:
        raise ValueError(f"{name} must be one of {', '.join(kinds.__members__)}, got {called}")
    return kinds[called]
