"""What goes wrong for a person to put right, as opposed to what is broken in the code."""


class UserError(Exception):
    """Its text is one sentence that names what came, what was expected and what to do; no traceback is shown."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence that says what was kept and how to go on."""
