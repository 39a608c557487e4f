"""The HTTP API: DAGs in, what became of them out. Optional, and in any number of replicas.

Rule: it holds no state and speaks with Redis only. What it changes are entries of `submissions` and `controls`, as
everybody's are; downloads go from the object store to whoever asked, by signed URLs that are computed here.
"""
