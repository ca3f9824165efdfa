"""What a person named and cannot be used, as opposed to what is broken in the code. Nothing heavy is loaded here."""


class InputError(ValueError):
    """Faces or a net that cannot be used; its text is one sentence: what came, what was expected, what to do."""
