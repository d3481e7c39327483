"""What a run can be stopped by; each message is one line that says what to do about it."""


class RunError(ValueError):
    """Something that a run was given and cannot use; the message is one line that names it."""


class CheckpointError(RunError):
    """A checkpoint that cannot be used; the message is one line that names the file and says why."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that was cut short or changed after it was written: the one before it may be used."""


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says from where it can be taken up."""


class LostRank(RuntimeError):
    """One of several processes that ended, or was not heard of in time: the others cannot go on."""


class Interrupted(RuntimeError):
    """Training that was asked to stop, and did, with a checkpoint.

    Attributes
    ----------
    signal : int
        The number of the signal that asked.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number
