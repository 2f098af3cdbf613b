"""What a user can get wrong, said in one sentence."""


class InputError(ValueError):
    """A file, a table or a setting that cannot be used.

    The message is one sentence (or two) that says what was found, what was expected and what to
    do. The command line prints it without a traceback and exits with status 2.

    Examples
    --------
    >>> raise InputError("frame is 3-D, expected (y, x); pass one frame at a time")
    Traceback (most recent call last):
    ...
    atomvae.errors.InputError: frame is 3-D, expected (y, x); pass one frame at a time
    """
