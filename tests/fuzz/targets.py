"""All targets, by name."""

from tests.fuzz import endpoints, files, streams, texts

TARGETS = {target.name: target for each in (texts, streams, endpoints, files) for target in each.TARGETS}
