"""What can be wrong with the user's input; the command line prints it and exits with 2."""


class InputError(ValueError):
    """The user's input cannot be used; the message names the file and the remedy."""


class UnknownVoxelSizeError(InputError):
    """A tomogram's header does not tell its voxel size, and nobody else did."""


class OutputError(InputError):
    """A result cannot be written; nothing that comes after it could be either."""


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise torch's errors by name and text: to import torch here would slow every command."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
