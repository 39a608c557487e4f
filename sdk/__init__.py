"""Helios from Python: what `from helios import Dag, task, Client` gives.

Rule: importing any module here imports neither Redis, nor the object store's client, nor the command line's parser;
what speaks to servers is imported by the call that first speaks. `import time` is what users feel in every notebook.
"""
