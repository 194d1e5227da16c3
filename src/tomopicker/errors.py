"""What can be wrong with the user's input; the command line prints it and exits with 2."""

import re


class InputError(ValueError):
    """The user's input cannot be used; the message names the file and the remedy."""


class UnknownVoxelSizeError(InputError):
    """A tomogram's header does not tell its voxel size, and nobody else did."""


class OutputError(InputError):
    """A result cannot be written; nothing that comes after it could be either."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, of a GPU or the computer.

    Torch's own error is recognised by its name: to import torch here would slow every command.
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None)
        or (isinstance(error, ImportError) and _NO_ROOM_FOR_LIBRARY.search(str(error)) is not None)
    )


# How oneDNN, torch's allocators and CUDA's libraries say it, where they raise no error of its own.
_OUT_OF_MEMORY = re.compile(
    "can't allocate memory|not enough memory|out of memory|could not create a memory object"
    "|_STATUS_ALLOC_FAILED|can't start new thread"
)

# As the loader says it. Where it is not permitted, the disk forbids to run what is on it.
_NO_ROOM_FOR_LIBRARY = re.compile("failed to map segment(?!.*not permitted)")
