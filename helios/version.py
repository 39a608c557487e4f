"""Which Helios this is: the version of the code, and of the image it was put into, if it was."""

import os

VERSION = "0.1.0"


def image_tag() -> str:
    """What `make images` called the image that this process runs from; empty outside of one."""
    return os.environ.get("HELIOS_IMAGE_TAG", "")
