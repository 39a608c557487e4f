"""The agent's version, in a module of its own because a zipapp's `agent` package is bound by hand (see __main__)."""

VERSION = "0.1.0"
