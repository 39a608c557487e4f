"""What a screen wants of the dashboard as a whole. Screens post these; the app alone knows the other screens."""

from textual.message import Message


class OpenRun(Message):
    """Show this run's tasks."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run = run


class SelectRun(Message):
    """Go to the table of runs, with the cursor on this one as soon as it is there."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run = run


class OpenSubmit(Message):
    """Edit the DAG that was edited last."""


class OpenCompare(Message):
    """Show two runs side by side; `left` is the earlier one."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__()
        self.left = left
        self.right = right
